"""Measuring: sessions of ONNX Runtime by the clock, and how fast this machine moves bytes.

What is compared runs in turns, so that whatever else the machine does meets all alike, and medians count. On the CPU
with one thread, times are those of that thread.
"""

import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnx_export.calibration import Batch, check_samples, is_stacked
from onnx_export.calls import ELEMENT_TYPES as CODES
from onnx_export.calls import Call
from onnx_export.files import one_line
from onnx_export.functions import DOMAIN, DOMAIN_VERSION, functions
from onnx_export.products import SYMBOLS_DOMAIN, symbols_call
from onnx_export.runtime import ELEMENT_TYPES, onnxruntime, open_session
from refimpl.errors import ExportError, InvalidArgument

LENGTHS = (64, 224, 512, 16, 1)  # of free dimensions other than the first: the first one that a model takes
LEAST_SECONDS = 0.5  # of measuring a thing, unless that takes more than so many rounds:
MOST_ROUNDS = 50
TURN_SECONDS = 0.02  # of runs in a row
SHORTEST = 1e-7  # that a clock can tell
COPY_BYTES = 1 << 27
Task = Callable[[], Any]


@dataclass(frozen=True)
class Setup:
    """How models are run to be measured."""

    device: str = "cpu"
    batch: int = 1
    threads: int | None = None  # of a session on the CPU; default ONNX Runtime's
    repeats: int = 5  # rounds at the least, unless these take
    most: float = math.inf  # seconds of measuring a thing
    length: int = LENGTHS[0]  # of free dimensions of inputs that are made up
    samples: npt.NDArray[Any] | Batch | None = field(default=None, repr=False, compare=False)  # of the inputs

    def __post_init__(self) -> None:
        """Refuse what is no way to run."""
        for name in ("batch", "threads", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} is {value}, at least one is needed")

    @property
    def clock(self) -> Callable[[], float]:
        """What counts the seconds."""
        return time.thread_time if self.device == "cpu" and self.threads == 1 else time.perf_counter

    def options(self) -> Any:
        """Options of a session."""
        options = onnxruntime().SessionOptions()
        options.enable_mem_pattern = False  # see `onnx_export.session.open_streaming`
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        return options


def environment() -> dict[str, str]:
    """Machine and versions."""
    packages = {name: version(name) for name in ("tansor", "numpy", "onnx")}
    return {
        "machine": platform.machine(), "cores": str(os.cpu_count()), "python": platform.python_version(),
        "onnxruntime": onnxruntime().__version__, **packages, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def seconds_of(tasks: Mapping[str, Task], setup: Setup) -> dict[str, float]:
    """Median seconds of each task; they take turns, a first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    begun, rounds = time.perf_counter(), 0
    for task in tasks.values():
        task()

    def goes_on() -> bool:
        each = (time.perf_counter() - begun) / len(tasks)
        short = setup.repeats > 1 and rounds < MOST_ROUNDS and each < LEAST_SECONDS
        return rounds == 0 or (each < setup.most and (rounds < setup.repeats or short))

    while goes_on():
        for name, task in tasks.items():
            times[name] += turn(task, setup.clock)
        rounds += 1
    return {name: statistics.median(taken) for name, taken in times.items()}


def turn(task: Task, clock: Callable[[], float]) -> list[float]:
    """Seconds of a few runs in a row; a short task's first one does not count: another task had the caches."""
    times: list[float] = []
    while not times or sum(times) < TURN_SECONDS:
        start = clock()
        task()
        times.append(max(clock() - start, SHORTEST))
    return times[1:] or times


# Sessions


def feeds_for(session: Any, setup: Setup) -> Batch:
    """A batch of inputs: samples, again and again if they are few, or what any model takes.

    Raises
    ------
    CalibrationError
        The samples do not fit the model.
    ExportError
        Without samples: an input of a kind that cannot be made up.
    """
    if setup.samples is not None:
        return batch_of(session, check_samples(session, setup.samples), setup.batch)
    inputs = session.get_inputs()
    batches = {given.shape[0] for given in inputs if given.shape}  # names of dimensions that count samples
    random, feeds = np.random.default_rng(0), {}
    for given in inputs:
        dtype = ELEMENT_TYPES.get(given.type)
        if dtype is None:
            raise ExportError(f"input {given.name} is {given.type}: nothing to measure with")
        shape = []
        for axis, dim in enumerate(given.shape):
            counts_samples = axis == 0 or (isinstance(dim, str) and dim in batches)
            shape.append(dim if is_fixed(dim) else setup.batch if counts_samples else setup.length)
        noise = random.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        feeds[given.name] = noise.astype(dtype)
    return feeds


def batch_of(session: Any, samples: Batch, batch: int) -> Batch:
    """So many of the samples, in turns; one where an input in a run of its own, such as a state, is among them."""
    inputs = {given.name: given for given in session.get_inputs()}
    stacked = {name for name, array in samples.items() if is_stacked(array, inputs[name])}
    feeds = {}
    for name, array in samples.items():
        first = inputs[name].shape[0] if inputs[name].shape else None
        count = 1 if stacked else first if is_fixed(first) else batch
        feeds[name] = (
            array[0, ...] if name in stacked else array[np.arange(count) % len(array)] if array.ndim else array
        )
    return feeds


def is_fixed(dim: Any) -> TypeGuard[int]:
    """Whether a dimension of a session's input is a number: free ones have a name or none, or are not positive."""
    return isinstance(dim, int) and dim > 0


def fitting(session: Any, setup: Setup) -> Setup:
    """The setup with a length that the model takes, found by running it.

    Raises
    ------
    CalibrationError
        The samples do not fit the model.
    ExportError
        It runs with none.
    """
    failures = []
    free = any(not is_fixed(dim) for given in session.get_inputs() for dim in given.shape[1:])
    for length in LENGTHS if free and setup.samples is None else (setup.length,):
        tried = replace(setup, length=length)
        try:
            bound_run(session, tried)()
        except ExportError as error:
            failures.append(error)
            if setup.samples is not None:
                raise
        else:
            return tried
    wanted = ", ".join(f"{given.name} {given.shape}" for given in session.get_inputs())
    raise ExportError(
        f"{failures[0]}. That was on inputs made up for {wanted}: give samples of them with --calibration FILE"
    )


def bound_run(session: Any, setup: Setup) -> Task:
    """A run of a session on a batch, its inputs and outputs in the memory of the device."""
    ort = onnxruntime()
    binding = session.io_binding()
    for name, array in feeds_for(session, setup).items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, setup.device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, setup.device)
    return run_of(session, binding)


def run_of(session: Any, binding: Any) -> Task:
    """A run of a session with what is bound to it.

    The task raises ExportError if ONNX Runtime cannot run the model.
    """

    def run() -> None:
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ExportError(f"ONNX Runtime cannot run the model: {one_line(error)}") from None

    return run


def decoding(name: str, shape: tuple[int, ...], dtype: str, call: Call, setup: Setup, *, symbols: bool = False) -> Task:
    """One call in a session of its own, again and again into the same memory; the values, or the symbols."""
    model = call_model(name, shape, dtype, call)
    if symbols:
        give_symbols(model)
    session = open_session(model, setup.device, setup.options())
    binding = session.io_binding()
    element = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(uint8)": np.uint8}.get(
        session.get_outputs()[0].type
    )
    if element is None:  # ONNX Runtime makes no array of 4-bit and bfloat16 values for us
        binding.bind_output(name, setup.device)
    else:
        value = onnxruntime().OrtValue.ortvalue_from_shape_and_type(list(shape), element, setup.device, 0)
        binding.bind_ortvalue_output(name, value)
    return run_of(session, binding)


def call_model(name: str, shape: tuple[int, ...], dtype: str, call: Call) -> onnx.ModelProto:
    """A model that decodes one tensor."""
    output = helper.make_tensor_value_info(name, CODES[dtype], shape)
    graph = helper.make_graph([call.node], "decode", [], [output], call.inputs)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    bodies = functions([call.node.op_type], 21)
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=bodies)


def give_symbols(model: onnx.ModelProto) -> None:
    """Let a call that is a model's only node give its symbols, in place."""
    graph = model.graph
    call = symbols_call(graph.node[0], graph.output[0].name)
    graph.node[0].CopyFrom(call)
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.opset_import.append(helper.make_opsetid(SYMBOLS_DOMAIN, 1))


# The machine


def bandwidths(path: Path, setup: Setup, size: int = COPY_BYTES) -> dict[str, float | None]:
    """Bytes a second that this machine moves; None for what it does not have.

    Returns
    -------
    dict
        ``memory``: from the device's memory to the same, read bytes. ``link``: from the host's memory to the device's,
        as ONNX Runtime copies arrays; None on the CPU. ``disk``: from the file of the path, dropped from the system's
        cache before; None where that cannot be done.
    """
    ort = onnxruntime()
    array = np.zeros(size // 4, np.float32)
    there = ort.OrtValue.ortvalue_from_numpy(array, setup.device, 0)
    copy = seconds_of({"": identity_run(there, setup)}, setup)[""]
    link = None
    if setup.device != "cpu":
        link = size / seconds_of({"": lambda: there.update_inplace(array)}, setup)[""]
    return {"memory": size / copy, "link": link, "disk": disk_bandwidth(path)}


def identity_run(value: Any, setup: Setup) -> Task:
    """A model that copies an array on its device."""
    info = helper.make_tensor_value_info
    ends = [info(name, onnx.TensorProto.FLOAT, value.shape()) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = open_session(model, setup.device, setup.options(), native=False)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", value)
    result = onnxruntime().OrtValue.ortvalue_from_shape_and_type(value.shape(), np.float32, setup.device, 0)
    binding.bind_ortvalue_output("y", result)
    return run_of(session, binding)


def disk_bandwidth(path: Path) -> float | None:
    """Bytes a second from a file that was dropped from the system's cache; None where that cannot be done."""
    if not hasattr(os, "posix_fadvise"):
        return None
    room = memoryview(bytearray(1 << 24))
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin, size = time.perf_counter(), 0
        while size < COPY_BYTES and (count := file.readinto(room)):
            size += count
        return size / (time.perf_counter() - begin)


def device_memory() -> tuple[int, int] | None:
    """(bytes in use by whomever, all bytes) of the current CUDA device; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    driver.cuInit(0)
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or driver.cuCtxPushCurrent_v2(context):
        return None
    failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return None if failed else (total.value - free.value, total.value)


def host_memory() -> tuple[int, int] | None:
    """(bytes in use by this process, bytes that the system could give) of main memory; None where it does not tell."""
    with suppress(OSError, StopIteration, ValueError):
        return resident_bytes("/proc/self/status", "VmRSS"), resident_bytes("/proc/meminfo", "MemAvailable")
    return None


def resident_bytes(path: str, field: str) -> int:
    """A field of Linux's tables, in kB there."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))
