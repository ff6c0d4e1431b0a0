"""A decoder in C, written from the pages of the specification alone, against the golden vectors."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from conformance.command_backend import Command
from conformance.run import run
from conformance.vectors import load_cases

SOURCE = Path(__file__).parents[1] / "c_decoder" / "tansor_decode.c"
FOUND = Path(__file__).with_name("found")
STRICT = ["-O2", "-std=c11", "-Wall", "-Wextra", "-Werror"]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
STEPS = ["decode", "spread", "decode_table", "merge_chunks", "log2_fixed", "normalize_counts"]


def compile_c(compiler, source, program, *options):
    command = [compiler, *STRICT, *options, "-o", str(program), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def can_sanitize(compiler, folder):
    """Whether programs link with the sanitizers' libraries, and start."""
    source, program = folder / "empty.c", folder / "empty"
    source.write_text("int main(void) { return 0; }\n")
    if compile_c(compiler, source, program, *SANITIZED).returncode != 0:
        return False
    return subprocess.run([str(program)], capture_output=True, check=False, timeout=60).returncode == 0


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: neither cc nor gcc nor clang is on the path")
    folder = tmp_path_factory.mktemp("c_decoder")
    program = folder / "tansor_decode"
    compiled = compile_c(compiler, SOURCE, program, *(SANITIZED if can_sanitize(compiler, folder) else []))
    assert compiled.returncode == 0, compiled.stderr
    return Command(shlex.quote(str(program)))


def test_the_decoder_in_c_passes_every_vector_of_its_steps(decoder):
    cases = load_cases(STEPS)
    assert {case.step for case in cases} == set(STEPS)
    results = run(decoder, cases, jobs=2)
    assert len(results) == len(cases)
    assert [f"{result.id}: {result.text}" for result in results if result.status != "passed"] == []


def test_the_decoder_in_c_checks_the_checksum_of_no_symbols(decoder, tmp_path):
    shutil.copy(FOUND / "no-symbols-but-a-checksum.frame", tmp_path / "frame.bin")
    folder = str(tmp_path)
    done = subprocess.run([*decoder.words, "decode", folder, folder], capture_output=True, check=False, timeout=60)
    assert (done.returncode, (tmp_path / "error").read_text()) == (3, "Corrupt")


def test_the_decoder_in_c_says_what_it_lacks(decoder):
    (result,) = run(decoder, load_cases(["select"])[:1])
    assert result.status == "skipped"
