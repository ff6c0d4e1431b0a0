"""A progress bar on a terminal, silence in a pipe."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function to tell (what, done, of how many); each ``what`` gets a bar on standard error."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True), transient=True) as bars:

        def tell(what: str, done: int, count: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=count)
            bars.update(tasks[what], completed=done, total=count)

        yield tell
