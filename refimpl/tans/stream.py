"""The stream: everything one run of the coder stores, side information included.

::

    words = start state of every lane    table_log bits each
            length of every lane         length_width bits each, minus length_base
            payload of every lane        its length in bits: states' bits, then literals backwards
            zero bits up to a whole word

Specification: docs/spec/tans.md, "Stream".
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from refimpl.errors import Corrupt, InvalidArgument, LimitExceeded, Truncated
from refimpl.tans import counts as counts_module
from refimpl.tans.bits import append_bits, pack_fields, unpack_fields
from refimpl.tans.classes import LITERAL_PRICE, ClassTable, class_table
from refimpl.tans.counts import coded_cost, normalize_counts
from refimpl.tans.decoding import decode_lanes
from refimpl.tans.encoding import encode_lanes
from refimpl.tans.lanes import check_profile, choose_lane_count
from refimpl.tans.model import CheapestModel, cheapest_model, choose_model
from refimpl.tans.nibbles import pack_nibbles
from refimpl.tans.spread import spread_slots, table_log_of
from refimpl.tans.tables import DecodeTable, EncodeTable, SpreadSlots, decode_table, encode_table

MAX_LENGTH_WIDTH = 31


@dataclass(frozen=True)
class Stream:
    """One coded run of symbols. Frozen: a stream is a value."""

    symbol_count: int  # at least 1
    lane_count: int  # at least 1
    length_base: int  # bits of the shortest lane
    length_width: int  # bits of each stored lane length, 0 to 31
    counts: npt.NDArray[np.int64]  # (alphabet,) normalized counts
    classes: npt.NDArray[np.uint8]  # (bytes,) classes of rare symbols
    words: npt.NDArray[np.uint32]  # (words,)

    @property
    def side_bits(self) -> int:
        """Bits of start states and lane lengths."""
        return self.lane_count * (table_log_of(self.counts) + self.length_width)


class Histogram(Protocol):
    """Signature of `refimpl.tans.counts.histogram`."""

    def __call__(self, symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]: ...


class NormalizeCounts(Protocol):
    """Signature of `refimpl.tans.counts.normalize_counts`."""

    def __call__(self, histogram: npt.NDArray[np.int64], table_log: int) -> npt.NDArray[np.int64]: ...


class EncodeLanes(Protocol):
    """Signature of `refimpl.tans.encoding.encode_lanes`."""

    def __call__(
        self, symbols: npt.NDArray[np.uint8], lane_count: int, padding: int, table: EncodeTable, classes: ClassTable
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.uint32]]: ...


class DecodeLanes(Protocol):
    """Signature of `refimpl.tans.decoding.decode_lanes`."""

    def __call__(
        self,
        words: npt.NDArray[np.uint32],
        first_bit: int,
        start_states: npt.NDArray[np.uint16],
        bit_lengths: npt.NDArray[np.int64],
        table: DecodeTable,
        classes: ClassTable,
        symbol_count: int,
        packed: bool = False,
    ) -> npt.NDArray[np.uint8]: ...


class AppendBits(Protocol):
    """Signature of `refimpl.tans.bits.append_bits`."""

    def __call__(
        self, head: npt.NDArray[np.uint32], head_bits: int, tail: npt.NDArray[np.uint32], tail_bits: int
    ) -> npt.NDArray[np.uint32]: ...


class PackFields(Protocol):
    """Signature of `refimpl.tans.bits.pack_fields`."""

    def __call__(self, values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint32]: ...


class UnpackFields(Protocol):
    """Signature of `refimpl.tans.bits.unpack_fields`."""

    def __call__(
        self, words: npt.NDArray[np.uint32], first_bit: int, width: int, count: int
    ) -> npt.NDArray[np.int64]: ...


class PackNibbles(Protocol):
    """Signature of `refimpl.tans.nibbles.pack_nibbles`."""

    def __call__(self, symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]: ...


class Kernels(NamedTuple):
    """The loops over symbols, lanes, words and models to choose from; a faster twin replaces just these."""

    histogram: Histogram
    normalize_counts: NormalizeCounts
    cheapest_model: CheapestModel
    spread_slots: SpreadSlots
    encode_lanes: EncodeLanes
    decode_lanes: DecodeLanes
    append_bits: AppendBits
    pack_fields: PackFields
    unpack_fields: UnpackFields
    pack_nibbles: PackNibbles


NUMPY = Kernels(
    counts_module.histogram, normalize_counts, cheapest_model, spread_slots, encode_lanes, decode_lanes, append_bits,
    pack_fields, unpack_fields, pack_nibbles,
)  # fmt: skip


def encode_stream(
    symbols: npt.NDArray[np.uint8],
    *,
    profile: str = "gpu",
    table_log: int | None = None,
    lane_count: int | None = None,
    tensor_count: int | None = None,
    kernels: Kernels = NUMPY,
) -> Stream:
    """Code symbols into a stream.

    Parameters
    ----------
    symbols : uint8, shape (n,)
        n >= 1.
    profile : {"gpu", "archive"}
        Lane length to aim at, see `refimpl.tans.lanes.choose_lane_count`, and price of a literal, see
        `refimpl.tans.classes.plan_classes`.
    table_log, lane_count : int, optional
        Set instead of chosen.
    tensor_count : int, optional
        Symbols of the tensor, if these are not all of them.
    kernels : Kernels
        NumPy or a bit-exact twin.

    Raises
    ------
    InvalidArgument
        No symbols, or a parameter out of range.

    Examples
    --------
    >>> symbols = np.array([0, 1, 0, 0, 2, 0, 1, 0] * 40, np.uint8)
    >>> stream = encode_stream(symbols, lane_count=2)
    >>> len(symbols), stream.words.nbytes, np.array_equal(decode_stream(stream), symbols)
    (320, 56, True)
    """
    check_profile(profile)
    if len(symbols) == 0:
        raise InvalidArgument("a stream holds at least one symbol")
    histogram = kernels.histogram(symbols)
    if lane_count is None:
        estimate = coded_cost(histogram, kernels.normalize_counts(histogram, counts_module.MAX_TABLE_LOG))
        bits = estimate >> counts_module.LOG2_FRACTION_BITS
        lane_count = choose_lane_count(len(symbols), bits, profile, tensor_count)
    if not 1 <= lane_count <= len(symbols):
        raise InvalidArgument(f"lane_count is {lane_count}, allowed are 1 to {len(symbols)}")
    model = choose_model(histogram, lane_count, table_log, LITERAL_PRICE[profile], kernels.cheapest_model)
    table_log = table_log_of(model.counts)
    padding = int(np.argmax(model.counts))
    start_states, bit_lengths, payload = kernels.encode_lanes(
        symbols, lane_count, padding, encode_table(model.counts, kernels.spread_slots), class_table(model.classes)
    )
    base = int(bit_lengths.min())
    width = int(bit_lengths.max() - base).bit_length()
    if width > MAX_LENGTH_WIDTH:
        raise InvalidArgument(f"lane lengths differ by {width} bits, at most {MAX_LENGTH_WIDTH} can be stored")
    states = kernels.pack_fields(start_states.astype(np.int64), table_log)
    lengths = kernels.pack_fields(bit_lengths - base, width)
    side = kernels.append_bits(states, lane_count * table_log, lengths, lane_count * width)
    words = kernels.append_bits(side, lane_count * (table_log + width), payload, int(bit_lengths.sum()))
    return Stream(len(symbols), lane_count, base, width, model.counts, model.classes, words)


def decode_stream(stream: Stream, *, packed: bool = False, kernels: Kernels = NUMPY) -> npt.NDArray[np.uint8]:
    """Decode a stream; nothing in it is trusted.

    Parameters
    ----------
    stream : Stream
    packed : bool
        Unpack every decoded byte into two symbols, see `refimpl.tans.nibbles`.
    kernels : Kernels
        NumPy or a bit-exact twin.

    Returns
    -------
    uint8, shape (symbol_count,), or (2 * symbol_count,) if packed
        A read-only view if one symbol fills the table.

    Raises
    ------
    Truncated
        There are fewer words than the fields announce.
    Corrupt
        A field contradicts another, or a lane does not use exactly its bits.
    LimitExceeded
        More symbols than such a stream can hold.
    """
    classes = class_table(stream.classes)
    start_states, bit_lengths, table_log = lane_sides(stream, classes, kernels=kernels)
    symbol = only_symbol(stream.counts, classes)
    if symbol is not None:  # no bits limit how often it occurs
        if bit_lengths.any():
            raise Corrupt("the only symbol of a stream takes no bits")
        if packed:
            raise Corrupt("a packed stream repeats one byte")
        return repeat_symbol(symbol, stream.symbol_count)
    table = decode_table(stream.counts, kernels.spread_slots)
    first_bit = stream.lane_count * (table_log + stream.length_width)
    return kernels.decode_lanes(
        stream.words, first_bit, start_states, bit_lengths, table, classes, stream.symbol_count, packed
    )


def only_symbol(counts: npt.NDArray[np.int64], classes: ClassTable) -> int | None:
    """The symbol of a stream in which one symbol has all slots and no literals follow it."""
    present = np.flatnonzero(counts)
    return int(present[0]) if len(present) == 1 and not classes.width[present[0]] else None


def lane_sides(
    stream: Stream, classes: ClassTable, *, kernels: Kernels = NUMPY
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], int]:
    """(start_states, bit_lengths, table_log) of a stream, all fields checked.

    Raises
    ------
    Truncated, Corrupt, LimitExceeded
        See `decode_stream`.
    """
    try:
        table_log = table_log_of(stream.counts)
    except InvalidArgument as error:
        raise Corrupt(str(error)) from None
    lanes, width = stream.lane_count, stream.length_width
    if not 1 <= lanes <= stream.symbol_count:
        raise Corrupt(f"{lanes} lanes for {stream.symbol_count} symbols")
    if not 0 <= width <= MAX_LENGTH_WIDTH or stream.length_base < 0:
        raise Corrupt(f"lane lengths of {width} bits above {stream.length_base}")
    available = 32 * len(stream.words)
    if (least := lanes * (table_log + width + stream.length_base)) > available:
        raise Truncated(f"{lanes} lanes need at least {least} bits, the words hold {available}")
    # Fewer than 2**table_log steps in a row can pass without reading a bit, unless one symbol fills the table.
    if only_symbol(stream.counts, classes) is None and stream.symbol_count > (available + lanes) << table_log:
        raise LimitExceeded(f"{stream.symbol_count} symbols cannot come from {available} bits")
    side = stream.words[: (lanes * (table_log + width) + 31) // 32]
    start_states = kernels.unpack_fields(side, 0, table_log, lanes).astype(np.uint16)
    lengths = stream.length_base + kernels.unpack_fields(side, lanes * table_log, width, lanes)
    if (total := lanes * (table_log + width) + int(lengths.sum())) > available:
        raise Truncated(f"the lanes need {total} bits, the words hold {available}")
    if len(stream.words) != (total + 31) // 32:
        raise Corrupt(f"{len(stream.words)} words hold a stream of {total} bits")
    if total % 32 and stream.words[-1] >> np.uint32(total % 32):
        raise Corrupt("bits behind the last lane are not zero")
    return start_states, lengths, table_log


def repeat_symbol(symbol: int, count: int) -> npt.NDArray[np.uint8]:
    """A symbol ``count`` times as a read-only view: a claim costs no memory.

    Raises
    ------
    Corrupt
        A negative count.
    LimitExceeded
        More symbols than an array can have.

    Examples
    --------
    >>> repeat_symbol(7, 3)
    array([7, 7, 7], dtype=uint8)
    """
    if count < 0:
        raise Corrupt(f"a symbol occurs {count} times")
    if count >= 1 << 63:
        raise LimitExceeded(f"{count} symbols are more than an array can have")
    return np.broadcast_to(np.uint8(symbol), count)
