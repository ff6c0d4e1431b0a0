"""Several tensors at a time. The loops over symbols and NumPy's own leave the interpreter free meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from onnx_export.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(one: Callable[[Item], Result], items: Sequence[Item], jobs: int, tell: Progress) -> Iterator[Result]:
    """Results of ``one`` for each item, in order, computed by ``jobs`` threads."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done, result in enumerate(pool.map(one, items)):
                tell("compress", done + 1, len(items))
                yield result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
