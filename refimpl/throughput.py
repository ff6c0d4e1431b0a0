"""How fast a compressed model runs and what memory it takes: partial coding, four loading cases, what to code.

Decoding trades time for memory. Coding only a fraction f of the weights takes f of the decoding and keeps 1 - f of the
raw size; where bytes must come through a slow link or from disk, fewer of them may also be the faster way.

====== ======================================= ====================================
symbol meaning                                 unit
====== ======================================= ====================================
M      weights, raw: one byte each             bytes
r      raw over coded size of what is coded    1, at least
f      fraction that is coded                  0 to 1
D      speed of decoding                       raw bytes (weights) a second
G, C   device memory, host memory for weights  bytes
B      bandwidth of a link or disk             bytes a second
====== ======================================= ====================================

References: "When Compression Meets Model Compression", arXiv 2502.15443, figures 4 (partial coding) and 5 (loading
cases). The paper's own equations were not at hand: these are ours, for its cases. Specification:
docs/spec/throughput.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from refimpl.errors import InvalidArgument

FRACTION_STEPS = 16  # fractions are chosen in sixteenths
ROUNDING = 1e-9  # of ways on a straight line only the ends are corners


# Partial coding


def stored_bytes(raw_bytes: float, ratio: float, fraction: float) -> float:
    """Bytes of weights of which a fraction is coded: ``M ((1 - f) + f / r)``.

    Parameters
    ----------
    raw_bytes : float
        M, bytes.
    ratio : float
        r, raw over coded bytes.
    fraction : float
        f, 0 to 1.

    Examples
    --------
    >>> stored_bytes(1e9, 2.0, 0.5)
    750000000.0
    """
    check(raw_bytes, ratio, fraction)
    return raw_bytes * ((1 - fraction) + fraction / ratio)


def total_ratio(ratio: float, fraction: float) -> float:
    """Raw over stored bytes: ``1 / (1 - f (1 - 1/r))``.

    Examples
    --------
    >>> [round(total_ratio(2.2, f), 3) for f in (1, 0.75, 0.5, 0.25, 0)]
    [2.2, 1.692, 1.375, 1.158, 1.0]
    """
    check(0.0, ratio, fraction)
    return 1 / (1 - fraction * (1 - 1 / ratio))


def decode_seconds(raw_bytes: float, fraction: float, decode: float) -> float:
    """Time to decode: ``f M / D``.

    Parameters
    ----------
    raw_bytes : float
        M, bytes.
    fraction : float
        f, 0 to 1.
    decode : float
        D, raw bytes a second.

    Examples
    --------
    >>> decode_seconds(1e9, 0.5, 500e9)
    0.001
    """
    check(raw_bytes, 1.0, fraction)
    return fraction * raw_bytes / decode


def fraction_for_bytes(raw_bytes: float, ratio: float, target_bytes: float) -> float | None:
    """The smallest fraction whose stored bytes are within a target, None if there is none.

    Examples
    --------
    >>> round(fraction_for_bytes(100.0, 2.2, 60.0), 3)  # a cut of 40 %
    0.733
    >>> fraction_for_bytes(100.0, 2.0, 100.0), fraction_for_bytes(100.0, 2.0, 49.0)
    (0.0, None)
    """
    check(raw_bytes, ratio, 1.0)
    if raw_bytes <= target_bytes:
        return 0.0
    if stored_bytes(raw_bytes, ratio, 1.0) > target_bytes:
        return None
    return min(1.0, (1 - target_bytes / raw_bytes) / (1 - 1 / ratio))


# Loading cases


@dataclass(frozen=True)
class Machine:
    """Where weights can be, and how fast they come from there."""

    device_bytes: float  # G: of the memory that products read, what is free for weights and buffers
    host_bytes: float  # C: of the memory behind the link, what is free for weights
    link: float  # bytes a second from the host's memory to the device's
    disk: float  # bytes a second from disk to the host's memory
    decode: float  # D: raw bytes a second

    def __post_init__(self) -> None:
        """Refuse what is no capacity or speed."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value >= 0 if field.name in ("device_bytes", "host_bytes") else value > 0):
                raise InvalidArgument(f"{field.name} is {value}, it must be positive")


@dataclass(frozen=True)
class Workload:
    """A model of equal layers that run one after another, and how its weights are stored."""

    raw_bytes: float  # M
    ratio: float  # r
    fraction: float  # f
    compute_seconds: float  # of all layers, their weights in device memory and ready for use
    layers: int = 1
    width: float = 1.0  # bytes of a weight that is ready for use, over those of a raw one: 2 for float16
    buffers: int = 1  # decoded layers in device memory at a time; 2 where loading overlaps with computing

    def __post_init__(self) -> None:
        """Refuse what is no model."""
        check(self.raw_bytes, self.ratio, self.fraction)
        if self.compute_seconds < 0 or self.layers < 1 or self.width <= 0 or self.buffers < 0:
            raise InvalidArgument(f"{self} is no workload")

    @property
    def stored_bytes(self) -> float:
        """Bytes of the weights as they are stored."""
        return stored_bytes(self.raw_bytes, self.ratio, self.fraction)

    @property
    def ready_bytes(self) -> float:
        """Bytes of all weights ready for use."""
        return self.raw_bytes * self.width

    @property
    def buffer_bytes(self) -> float:
        """Bytes of the buffers that decoded layers take turns in."""
        return self.buffers * self.ready_bytes / self.layers


@dataclass(frozen=True)
class Places:
    """Where the bytes of stored weights lie: as near to the products as they fit."""

    device: float
    host: float
    disk: float

    @property
    def case(self) -> str:
        """``device``, ``host`` or ``disk``: the farthest place that is needed."""
        return "disk" if self.disk > 0 else "host" if self.host > 0 else "device"


@dataclass(frozen=True)
class Stages:
    """Seconds that one run of the model takes in each of its stages."""

    disk: float
    link: float
    decode: float
    compute: float

    @property
    def serial(self) -> float:
        """One stage after another."""
        return self.disk + self.link + self.decode + self.compute

    def pipelined(self, layers: int) -> float:
        """All stages at once, each on a layer of its own: the first layer in series, then the slowest stage.

        With one layer it is `serial`, with many the slowest stage alone. It is a bound: decoding and computing share a
        device.

        Examples
        --------
        >>> stages = Stages(disk=0.0, link=4.0, decode=1.0, compute=3.0)
        >>> [stages.pipelined(layers) for layers in (1, 2, 4)]
        [8.0, 6.0, 5.0]
        """
        slowest = max(self.disk, self.link, self.decode, self.compute)
        return slowest + (self.serial - slowest) / layers


def place(workload: Workload, machine: Machine) -> Places:
    """Where the stored bytes go: into device memory beside the buffers, then host memory, then they stay on disk.

    Raises
    ------
    InvalidArgument
        Not even the buffers fit into device memory.

    Examples
    --------
    >>> machine = Machine(device_bytes=40.0, host_bytes=20.0, link=25.0, disk=5.0, decode=500.0)
    >>> work = Workload(raw_bytes=100.0, ratio=2.0, fraction=1.0, compute_seconds=1.0, layers=10)
    >>> place(work, machine)
    Places(device=30.0, host=20.0, disk=0.0)
    """
    room = machine.device_bytes - workload.buffer_bytes
    if room < 0:
        raise InvalidArgument(
            f"buffers of {workload.buffer_bytes:,.0f} bytes do not fit into {machine.device_bytes:,.0f} of the device"
        )
    stored = workload.stored_bytes
    device = min(stored, room)
    host = min(stored - device, machine.host_bytes)
    return Places(device, host, stored - device - host)


def stages(workload: Workload, machine: Machine) -> Stages:
    """Seconds of each stage of one run.

    What is not in device memory crosses the link in each run, and what is not in the host's either comes from disk
    before: the formulas of the cases differ only in which terms are zero.

    Examples
    --------
    >>> machine = Machine(device_bytes=40.0, host_bytes=20.0, link=25.0, disk=5.0, decode=500.0)
    >>> work = Workload(raw_bytes=100.0, ratio=2.0, fraction=1.0, compute_seconds=1.0, layers=10)
    >>> stages(work, machine)  # 20 bytes over the link, 100 to decode
    Stages(disk=0.0, link=0.8, decode=0.2, compute=1.0)
    """
    places = place(workload, machine)
    return Stages(
        places.disk / machine.disk,
        (places.host + places.disk) / machine.link,
        decode_seconds(workload.raw_bytes, workload.fraction, machine.decode),
        workload.compute_seconds,
    )


def device_bytes(workload: Workload, machine: Machine) -> float:
    """Device memory that the weights take: what is stored there, and the buffers."""
    return place(workload, machine).device + workload.buffer_bytes


# When coding pays


def break_even_decode(bandwidth: float, ratio: float) -> float:
    """Speed of decoding above which coded weights load faster than raw ones: ``B r / (r - 1)``.

    In series, raw weights take M / B, coded ones ``f M / (r B) + (1 - f) M / B + f M / D``: f does not matter.

    Parameters
    ----------
    bandwidth : float
        B of what the weights come through, bytes a second.
    ratio : float
        r.

    Examples
    --------
    >>> round(break_even_decode(25e9, 2.2) / 1e9, 1)
    45.8
    """
    check(0.0, ratio, 1.0)
    return math.inf if ratio == 1 else bandwidth * ratio / (ratio - 1)


def unslowed_fraction(
    layer_bytes: float, ratio: float, decode: float, bandwidth: float, compute_seconds: float
) -> float:
    """The largest fraction at which decoding is not the slowest stage of a pipeline.

    It hides behind computing while ``f m / D <= c``, and behind loading while ``f m / D <= m ((1 - f) + f / r) / B``.

    Parameters
    ----------
    layer_bytes : float
        m, raw bytes of a layer.
    ratio, decode : float
        r and D.
    bandwidth : float
        B of what the layers come through in each run; infinite if they are in device memory.
    compute_seconds : float
        c, of a layer.

    Examples
    --------
    >>> round(unslowed_fraction(16e6, 2.0, 400e9, math.inf, 10e-6), 3)  # 40 microseconds to decode, 10 to compute
    0.25
    >>> unslowed_fraction(16e6, 2.0, 400e9, 25e9, 10e-6)  # the link takes 320
    1.0
    """
    check(layer_bytes, ratio, 1.0)
    behind_computing = decode * compute_seconds / layer_bytes if layer_bytes else 1.0
    behind_loading = 1 / (bandwidth / decode + 1 - 1 / ratio)
    return min(1.0, max(behind_computing, behind_loading))


def fraction_within(workload: Workload, machine: Machine, seconds: float) -> float | None:
    """The largest fraction with which a run in series takes at most so many seconds, None if there is none.

    Time over f is convex and made of straight pieces, bent where the stored bytes just fit a memory.

    Parameters
    ----------
    workload : Workload
        Its own fraction does not count.
    machine : Machine
    seconds : float

    Examples
    --------
    >>> machine = Machine(device_bytes=1e9, host_bytes=0.0, link=25e9, disk=5e9, decode=500e9)
    >>> work = Workload(raw_bytes=5e8, ratio=2.0, fraction=0.0, compute_seconds=0.01)
    >>> round(fraction_within(work, machine, 1.05 * 0.01), 3)  # half a millisecond of a whole one
    0.5
    """

    def time(fraction: float) -> float:
        return stages(replace(workload, fraction=fraction), machine).serial

    room = machine.device_bytes - workload.buffer_bytes
    fits = (
        fraction_for_bytes(workload.raw_bytes, workload.ratio, limit) for limit in (room, room + machine.host_bytes)
    )
    bends = sorted({0.0, 1.0, *(f for f in fits if f is not None)})
    if time(1.0) <= seconds:
        return 1.0
    for low, high in reversed(list(pairwise(bends))):
        before, after = time(low), time(high)
        if before <= seconds:
            return low + (high - low) * (seconds - before) / (after - before)
    return None


# What to code, tensor by tensor


@dataclass(frozen=True)
class Way:
    """One way to keep a tensor: what it adds to a run, and what it holds in memory."""

    seconds: float
    bytes: float


def partial_ways(low: Way, full: Way, least: int = 0) -> list[Way]:
    """The ways from a fraction of so many sixteenths to all: f runs straight between the two.

    Parameters
    ----------
    low : Way
        With ``least`` sixteenths coded; raw if that is 0.
    full : Way
        All coded.
    least : int
        0 to 16.

    Examples
    --------
    >>> partial_ways(Way(1.0, 160.0), Way(2.0, 96.0))[::8]
    [Way(seconds=1.0, bytes=160.0), Way(seconds=1.5, bytes=128.0), Way(seconds=2.0, bytes=96.0)]
    """
    count = max(FRACTION_STEPS - least, 1)
    shares = [i / count for i in range(FRACTION_STEPS - least + 1)]
    return [
        Way(low.seconds + s * (full.seconds - low.seconds), low.bytes + s * (full.bytes - low.bytes)) for s in shares
    ]


def choose_ways(tensors: Sequence[Sequence[Way]], seconds: float) -> list[int]:
    """One way for each tensor: the least memory within a time.

    Each tensor starts with its fastest way. Steps along its lower convex hull are taken in the order of bytes saved for
    a second, those of all tensors together. Where a step no longer fits, the tensor stops at the smallest of its ways
    that does. The bytes exceed the least possible ones by less than one step saves.

    Parameters
    ----------
    tensors : sequence of sequence of Way
        At least one way each.
    seconds : float
        For all tensors together. If even the fastest ways take longer, these are returned.

    Returns
    -------
    list of int
        Index of the way of each tensor.

    References
    ----------
    Y. Shoham and A. Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988: the same search, with
    bits for seconds.

    Examples
    --------
    >>> slow, fast = [Way(0.0, 100.0), Way(4.0, 40.0)], [Way(0.0, 100.0), Way(1.0, 40.0)]
    >>> choose_ways([slow, fast], 2.0), choose_ways([slow, fast], 5.0)
    ([0, 1], [1, 1])
    """
    hulls = [hull(ways) for ways in tensors]
    chosen = [h[0] for h in hulls]
    left = seconds - sum(ways[i].seconds for ways, i in zip(tensors, chosen, strict=True))
    steps = []
    for t, (ways, h) in enumerate(zip(tensors, hulls, strict=True)):
        for number, (a, b) in enumerate(pairwise(h)):
            takes = ways[b].seconds - ways[a].seconds
            steps.append(((ways[b].bytes - ways[a].bytes) / takes, t, number, takes, b))
    stuck: set[int] = set()
    for _, t, _, takes, way in sorted(steps):
        if t in stuck:
            continue
        if takes > left:
            stuck.add(t)
            now = tensors[t][chosen[t]].seconds
            fit = [i for i, w in enumerate(tensors[t]) if w.seconds - now <= left] or [chosen[t]]
            way = min(fit, key=lambda i: (tensors[t][i].bytes, tensors[t][i].seconds))
            takes = tensors[t][way].seconds - now
        chosen[t] = way
        left -= takes
    return chosen


def hull(ways: Sequence[Way]) -> list[int]:
    """Indices of the ways on the lower convex hull, the fastest first; each is slower and smaller than the one before.

    Examples
    --------
    >>> hull([Way(0.0, 9.0), Way(1.0, 8.0), Way(2.0, 1.0), Way(3.0, 2.0)])
    [0, 2]
    """
    order = sorted(range(len(ways)), key=lambda i: (ways[i].seconds, ways[i].bytes))
    corners: list[int] = []
    for i in order:
        if corners and ways[i].bytes >= ways[corners[-1]].bytes:
            continue
        while len(corners) > 1 and not is_corner(ways[corners[-2]], ways[corners[-1]], ways[i]):
            corners.pop()
        corners.append(i)
    return corners


def is_corner(a: Way, b: Way, c: Way) -> bool:
    """Whether b saves more bytes a second over a than c does, by more than rounding."""
    saved, saved_by_c = a.bytes - b.bytes, a.bytes - c.bytes
    return saved * (c.seconds - a.seconds) > saved_by_c * (b.seconds - a.seconds) * (1 + ROUNDING)


def check(raw_bytes: float, ratio: float, fraction: float) -> None:
    """Refuse what is no size, ratio or fraction.

    Raises
    ------
    InvalidArgument
        One is out of range.
    """
    if not raw_bytes >= 0:
        raise InvalidArgument(f"raw_bytes is {raw_bytes}, it must not be negative")
    if not ratio >= 1:
        raise InvalidArgument(f"ratio is {ratio}, allowed are numbers from 1")
    if not 0 <= fraction <= 1:
        raise InvalidArgument(f"fraction is {fraction}, allowed are numbers from 0 to 1")
