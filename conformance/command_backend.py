"""Ask a program in any language: a folder per case, raw little-endian files, the exit status.

::

    PROGRAM ARGUMENTS STEP CASE_DIR OUT_DIR

reads ``CASE_DIR/case.json`` and ``CASE_DIR/NAME.bin`` for each input, writes ``OUT_DIR/NAME.bin`` for each
output and exits with 0; with 3 and the error's name in ``OUT_DIR/error`` if the input must be refused; with
64 if it does not have the step.
"""

import json
import shlex
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from conformance.compare import Answer
from conformance.vectors import Case, little_endian
from refimpl.errors import InvalidArgument

DONE, REFUSED, NO_SUCH_STEP = 0, 3, 64


@dataclass(frozen=True)
class Command:
    """A program and the arguments that come before STEP."""

    line: str  # split as a shell does, but no shell runs
    timeout: float = 60.0  # seconds for each case

    @property
    def words(self) -> list[str]:
        """The program and its arguments.

        Raises
        ------
        InvalidArgument
            There is none, or a quote is left open.

        Examples
        --------
        >>> Command("./decoder --device 'cuda 0'").words
        ['./decoder', '--device', 'cuda 0']
        """
        try:
            words = shlex.split(self.line)
        except ValueError as error:
            raise InvalidArgument(f"command {self.line!r}: {error}") from None
        if not words:
            raise InvalidArgument("the command is empty")
        return words


def ask_command(command: Command, case: Case) -> Answer:
    """Run the program on one case.

    Raises
    ------
    InvalidArgument
        The program cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="tansor-") as folder:
        given, taken, said = Path(folder, "case"), Path(folder, "out"), Path(folder, "stderr")
        given.mkdir()
        taken.mkdir()
        write_case(case, given)
        words = [*command.words, case.step, str(given), str(taken)]
        try:
            with said.open("wb") as errors:
                done = subprocess.run(  # noqa: S603 (the user named the program)
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                    timeout=command.timeout, check=False,
                )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Answer(text=f"no answer in {command.timeout:g} seconds")
        except OSError as error:
            raise InvalidArgument(f"{words[0]} cannot be started: {error.strerror or error}") from None
        return read_answer(done.returncode, taken, said.read_bytes())


def write_case(case: Case, folder: Path) -> None:
    """The files of one case."""
    inputs = {}
    for name, stored in case.inputs.items():
        (folder / f"{name}.bin").write_bytes(little_endian(stored.read()))
        inputs[name] = {"dtype": stored.dtype, "shape": list(stored.shape)}
    described = {"step": case.step, "id": case.name, "inputs": inputs, "parameters": dict(case.parameters)}
    (folder / "case.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def read_answer(status: int, folder: Path, said: bytes) -> Answer:
    """What a program's exit status and files mean."""
    if status == DONE:
        return Answer({file.name.removesuffix(".bin"): file.read_bytes() for file in sorted(folder.glob("*.bin"))})
    if status == NO_SUCH_STEP:
        return Answer(missing=True)
    lines = said.decode("utf-8", "replace").strip().splitlines()
    last = lines[-1][:200] if lines else ""
    if status == REFUSED:
        error = folder / "error"
        name = error.read_text(encoding="utf-8", errors="replace").strip() if error.is_file() else ""
        return Answer(error=(name,), text=last) if name else Answer(text="exit status 3 without the file 'error'")
    what = f"killed by {signal_name(-status)}" if status < 0 else f"exit status {status}"
    return Answer(text=f"{what}: {last}" if last else what)


def signal_name(number: int) -> str:
    """A signal's name.

    Examples
    --------
    >>> signal_name(11)
    'SIGSEGV'
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
