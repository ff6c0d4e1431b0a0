"""Several tensors at a time: on threads, or on the workers of a Dask cluster.

The loops over symbols and NumPy's own leave the interpreter free meanwhile.
"""

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

from onnx_export.progress import Progress
from refimpl.errors import InvalidArgument

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    one: Callable[[Item], Result], items: Sequence[Item], jobs: int, tell: Progress, what: str = "compress"
) -> Iterator[Result]:
    """Results of ``one`` for each item, in order, computed by ``jobs`` threads; progress is told as ``what``."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done, result in enumerate(pool.map(one, items)):
                tell(what, done + 1, len(items))
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    release_memory()


def release_memory() -> None:
    """Give back to the system what threads have freed; glibc keeps it for them otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def on_layers(
    one: Callable[[Item], Result], items: Sequence[Item], jobs: int, scheduler: str | None, tell: Progress, what: str
) -> Iterator[Result]:
    """As `in_parallel`, for linear algebra: one thread for each item, here or on the workers of a cluster.

    With one thread sums are formed in one order on any number of cores, and by any worker with the same libraries.

    Raises
    ------
    InvalidArgument
        Dask is not installed, or no scheduler answers.
    """
    if scheduler is None:
        with threadpool_limits(1):
            yield from in_parallel(one, items, jobs, tell, what)
        return
    try:
        from distributed import Client
    except ImportError:
        raise InvalidArgument("--scheduler needs Dask: install tansor[cluster]") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it logs, the error below says
    try:
        client = Client(scheduler, timeout=10, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgument(f"no Dask scheduler answers at {scheduler} ({type(error).__name__})") from None
    with client:
        futures = [client.submit(single_threaded, one, item, pure=False) for item in items]
        for done, future in enumerate(futures):
            result = future.result()
            tell(what, done + 1, len(items))
            yield result


def single_threaded(one: Callable[[Item], Result], item: Item) -> Result:
    """A result, with one thread of linear algebra."""
    with threadpool_limits(1):
        return one(item)
