"""The command line: parse, call one public function, print.

Standard output carries results (a table, or JSON with ``--json``), standard error carries progress and
errors. Exit status 0: done; 1: a backend does not conform; 2: a user's error; 3: a damaged file; 128 and the signal's
number: interrupted, 130 by Ctrl-C.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refimpl.errors import InvalidArgument, StreamError, TansorError

DIFFERENT, USER_ERROR, DAMAGED, SIGNALLED = 1, 2, 3, 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    status: int = 0
    try:
        parser = make_parser()
        options = parser.parse_args(arguments)
        if not options.command:
            parser.print_help()
            return USER_ERROR
        with ended_by_signals():
            status = options.command(options) or 0
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
    except StreamError as error:
        return fail(str(error), DAMAGED)
    except TansorError as error:
        return fail(str(error), USER_ERROR)
    except BrokenPipeError:
        # The reader of our output has left; its end of the pipe is not our error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return fail(f"{error.filename or 'output'}: {error.strerror or error}", USER_ERROR)
    except MemoryError:
        return fail("not enough memory for this model", USER_ERROR)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        return fail("interrupted; nothing was written", SIGNALLED + int(number))
    return status


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let what ends a program, or the terminal it runs in, be an interrupt: what is temporary is then removed."""

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    changed = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in changed:
            signal.signal(number, interrupt)
    except ValueError:  # not in the main thread: a caller in Python sees to signals
        changed = []
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def fail(message: str, status: int) -> int:
    """Print one line to standard error."""
    print(f"tansor: {' '.join(message.split())}", file=sys.stderr)
    return status


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; nothing heavy is imported for it."""
    parser = argparse.ArgumentParser(
        prog="tansor",
        description="Compress the weights of a neural network; the result runs in ONNX Runtime as it is.",
    )
    parser.add_argument("--version", action=VersionAction, nargs=0, help="print the version and leave")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    demo = commands.add_parser("demo", help="compress the bundled model, run it, show the table, write report.html")
    demo.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="folder for the files (default: here)"
    )
    demo.set_defaults(command=run_demo)

    compress = commands.add_parser("compress", help="make a model smaller")
    compress.add_argument("input", type=Path, metavar="IN", help=".onnx or .safetensors")
    compress.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="same kind as IN")
    compress.add_argument(
        "--recipe", default="double", choices=["lossless", "double", "rate", "aggressive"], help="default: double"
    )
    compress.add_argument("--target-bits", type=float, metavar="B", help="bits per weight for rate to meet")
    compress.add_argument("--max-loss", type=float, metavar="P", help="loss of perplexity that rate may spend, percent")
    compress.add_argument("--tokens", type=Path, metavar="FILE.npy", help="tokens to measure --max-loss on")
    compress.add_argument("--sparsity", type=float, metavar="S", help="share of layers' weights to prune")
    compress.add_argument(
        "--prune-budget", choices=["layer", "global"], help="prune the share of each layer, or of all layers together"
    )
    compress.add_argument("--activations", choices=["int8"], help="quantize what layers read, too (recipe double)")
    compress.add_argument("--calibration", type=Path, metavar="FILE", help="samples of the inputs, .npy or .npz")
    compress.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="tensors to copy (repeatable)")
    compress.add_argument("--profile", default="gpu", choices=["gpu", "archive"], help="parallel decoding or size")
    compress.add_argument("--fraction", type=float, default=1.0, metavar="F", help="share of each tensor to code")
    compress.add_argument("--latency-budget", type=float, metavar="X", help="run within X times the plain latency")
    compress.add_argument("--device", choices=["cpu", "cuda"], help="where --latency-budget counts (default: cpu)")
    compress.add_argument("--batch", type=int, metavar="N", help="batch at which it counts (default: 1)")
    compress.add_argument("--threads", type=int, metavar="N", help="of the sessions that measure it on the CPU")
    compress.add_argument("--jobs", type=int, metavar="N", help="threads (default: one per core)")
    compress.add_argument("--work", type=Path, metavar="FOLDER", help="keep what is finished, resume from it")
    compress.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that sees the --work folder")
    compress.add_argument("--report", type=Path, metavar="FILE.html", help="write a report to look at")
    compress.set_defaults(command=run_compress)

    decompress = commands.add_parser("decompress", help="back to a plain model")
    decompress.add_argument("input", type=Path, metavar="IN")
    decompress.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    decompress.set_defaults(command=run_decompress)

    inspect = commands.add_parser("inspect", help="list what a compressed file holds, from its headers")
    inspect.add_argument("input", type=Path, metavar="IN")
    inspect.set_defaults(command=run_inspect)

    verify = commands.add_parser("verify", help="check all checksums, decode everything, compare to the original")
    verify.add_argument("input", type=Path, metavar="IN")
    verify.add_argument("--against", type=Path, metavar="ORIGINAL")
    verify.set_defaults(command=run_verify)

    run = commands.add_parser("run", help="run a model once")
    run.add_argument("input", type=Path, metavar="IN")
    run.add_argument("--input", dest="feeds", action="append", default=[], metavar="NAME=FILE.npy")
    run.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz")
    run.set_defaults(command=run_run)

    evaluate = commands.add_parser("evaluate", help="perplexity of a language model")
    evaluate.add_argument("input", type=Path, metavar="IN")
    evaluate.add_argument("--tokens", type=Path, required=True, metavar="FILE.npy", help="integers (windows, length)")
    evaluate.add_argument("--baseline", type=Path, metavar="ORIGINAL", help="evaluate this model beside it")
    evaluate.set_defaults(command=run_evaluate)

    conformance = commands.add_parser("conformance", help="test a codec, in any language, against the golden cases")
    asked = conformance.add_mutually_exclusive_group()
    asked.add_argument("--backend", metavar="MODULE:OBJECT", help="a Python backend (default: our own codec)")
    asked.add_argument("--command", dest="program", metavar="CMD", help="a program; gets STEP, CASE_DIR and OUT_DIR")
    conformance.add_argument("--steps", metavar="A,B", help="only these steps")
    conformance.add_argument("--jobs", type=int, default=1, metavar="N", help="programs to run at once (default: 1)")
    conformance.add_argument("--list", action="store_true", help="list the cases and leave")
    conformance.set_defaults(command=run_conformance)

    bench = commands.add_parser("bench", help="measure a model: load time, latency, memory, decoding speed")
    bench.add_argument("input", type=Path, metavar="IN")
    bench.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="runs of which the median counts (default: 5)"
    )
    bench.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="of measuring, beside loading (default: 10)"
    )
    bench.add_argument(
        "--calibration", type=Path, metavar="FILE", help="samples of the inputs, .npy or .npz (default: made up)"
    )
    bench.add_argument("--threads", type=int, metavar="N", help="of sessions on the CPU (default: ONNX Runtime's)")
    bench.set_defaults(command=run_bench)

    for command, mode in ((run, "streaming"), (evaluate, "resident"), (bench, "streaming")):
        command.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
        command.add_argument(
            "--mode", default=mode, choices=["streaming", "resident", "auto"],
            help=f"decode weights at each use, once while loading, or as the file says (default: {mode})",
        )  # fmt: skip
    for command in (compress, decompress, run):
        command.add_argument("--force", action="store_true", help="replace an existing output")
    for command in (demo, compress, inspect, verify, evaluate, bench, conformance):
        command.add_argument(
            "--json", nargs="?", const="-", metavar="FILE", help="print the result as JSON, or write it to FILE"
        )
    return parser


class VersionAction(argparse.Action):
    """Look the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it and leave."""
        from importlib.metadata import version

        print(f"tansor {version('tansor')}")
        parser.exit()


def run_demo(options: argparse.Namespace) -> None:
    """Tansor demo."""
    from onnx_export.demo import demo
    from onnx_export.progress import progress_bar
    from onnx_export.tables import demo_table

    json_path(options)
    with progress_bar() as progress:
        result = demo(options.output, progress=progress)
    show(result, options.json, demo_table)


def run_compress(options: argparse.Namespace) -> None:
    """Tansor compress."""
    from onnx_export.compress import compress
    from onnx_export.files import check_distinct, check_output, write_whole
    from onnx_export.progress import progress_bar
    from onnx_export.report import report_html
    from onnx_export.tables import compress_table

    extra = [path for path in (options.report, json_path(options)) if path is not None]
    for path in extra:
        check_output(path, force=options.force)
    check_distinct(options.input, options.output, *extra)
    with progress_bar() as progress:
        result = compress(
            options.input,
            options.output,
            recipe=options.recipe,
            calibration=options.calibration,
            sparsity=options.sparsity,
            target_bits=options.target_bits,
            max_loss=options.max_loss,
            activations=options.activations,
            prune_budget=options.prune_budget,
            tokens=options.tokens,
            exclude=options.exclude,
            profile=options.profile,
            fraction=options.fraction,
            jobs=options.jobs,
            work=options.work,
            scheduler=options.scheduler,
            latency_budget=options.latency_budget,
            device=options.device,
            batch=options.batch,
            threads=options.threads,
            force=options.force,
            progress=progress,
        )
    if options.report is not None:
        page = report_html(result)
        write_whole(options.report, lambda part: part.write_text(page, encoding="utf-8"), force=options.force)
    show(result, options.json, compress_table, force=options.force)


def run_decompress(options: argparse.Namespace) -> None:
    """Tansor decompress."""
    from onnx_export.decompress import decompress
    from onnx_export.progress import progress_bar

    with progress_bar() as progress:
        decompress(options.input, options.output, force=options.force, progress=progress)


def run_inspect(options: argparse.Namespace) -> None:
    """Tansor inspect."""
    from onnx_export.inspect import inspect
    from onnx_export.tables import inspect_table

    json_path(options)
    show(inspect(options.input), options.json, inspect_table)


def run_verify(options: argparse.Namespace) -> None:
    """Tansor verify."""
    from onnx_export.progress import progress_bar
    from onnx_export.tables import verify_table
    from onnx_export.verify import verify

    json_path(options)
    with progress_bar() as progress:
        result = verify(options.input, options.against, progress=progress)
    show(result, options.json, verify_table)


def run_run(options: argparse.Namespace) -> None:
    """Tansor run."""
    import numpy as np

    from onnx_export.files import check_output, read_array, write_whole
    from onnx_export.session import run

    if options.output.suffix != ".npz":
        raise InvalidArgument(f"{options.output}: the output must end in .npz")
    check_output(options.output, force=options.force)
    feeds = {}
    for feed in options.feeds:
        name, equals, file = feed.partition("=")
        if not (name and equals and file):
            raise InvalidArgument(f"--input {feed}: write NAME=FILE.npy")
        feeds[name] = read_array(Path(file))
    outputs = run(
        options.input, feeds, mode=options.mode, device=options.device,
        tell=lambda line: print(f"tansor: {line}", file=sys.stderr),
    )  # fmt: skip
    write_whole(options.output, lambda part: np.savez(part, **outputs), force=options.force)  # type: ignore[arg-type]


def run_evaluate(options: argparse.Namespace) -> None:
    """Tansor evaluate."""
    from onnx_export.evaluate import evaluate
    from onnx_export.progress import progress_bar
    from onnx_export.tables import evaluate_table

    json_path(options)
    with progress_bar() as progress:
        result = evaluate(
            options.input, options.tokens, baseline=options.baseline,
            device=options.device, mode=options.mode, progress=progress,
        )  # fmt: skip
    show(result, options.json, evaluate_table)


def run_bench(options: argparse.Namespace) -> None:
    """Tansor bench."""
    from onnx_export.bench import bench, print_bench
    from onnx_export.progress import progress_bar

    json_path(options)
    with progress_bar() as progress:
        result = bench(
            options.input,
            device=options.device,
            mode=options.mode,
            repeats=options.repeats,
            threads=options.threads,
            seconds=options.seconds,
            calibration=options.calibration,
            progress=progress,
        )
    show(result, options.json, print_bench)


def run_conformance(options: argparse.Namespace) -> int:
    """Tansor conformance."""
    from conformance.command_backend import Command
    from conformance.python_backend import load_backend
    from conformance.report import print_summary
    from conformance.run import run, summary
    from conformance.vectors import load_cases

    cases = load_cases(options.steps.split(",") if options.steps is not None else None)
    if options.list:
        for case in cases:
            print(case.id)
        return 0
    json_path(options)
    name = options.program or options.backend or "conformance.backends:numba"
    if options.backend is not None:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    backend = load_backend(name) if options.program is None else Command(options.program)
    result = summary(name, run(backend, cases, jobs=options.jobs))
    if not result["passed"] + result["failed"]:
        raise InvalidArgument(f"{name} has none of the steps")
    show(result, options.json, print_summary)
    return DIFFERENT if result["failed"] else 0


def json_path(options: argparse.Namespace) -> Path | None:
    """The file that ``--json`` names, None without one; an existing one is refused before the work begins.

    Commands without ``--force`` replace a JSON file, but never a model or tokens.
    """
    from onnx_export.files import check_distinct, check_output

    if options.json in (None, "-"):
        return None
    path = Path(options.json)
    check_output(path, force=getattr(options, "force", path.suffix == ".json"))
    read = [getattr(options, name, None) for name in ("input", "against", "tokens", "baseline", "calibration")]
    for other in read:
        if other is not None:
            check_distinct(path, other)
    return path


def show(result: dict[str, Any], json_to: str | None, table: Any, *, force: bool = True) -> None:
    """Print a result: as a table, as JSON, or as a table with the JSON in a file."""
    from onnx_export.files import write_whole

    text = json.dumps(result, indent=1, allow_nan=False)
    if json_to == "-":
        print(text)
        return
    if json_to is not None:
        write_whole(Path(json_to), lambda part: part.write_text(text + "\n", encoding="utf-8"), force=force)
    table(result)


if __name__ == "__main__":
    sys.exit(main())
