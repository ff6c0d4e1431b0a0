"""Inputs that a fuzzer once found: each ends as it should by now. And those that it begins with."""

from pathlib import Path

import pytest
from fuzz_checks import check_container, check_frame
from write_corpus import seeds

from codec import decode
from codec.container import read_container

HERE = Path(__file__).parent
FOUND = sorted(path for path in (HERE / "found").iterdir() if path.name != "README.md")
SEEDS = sorted((HERE.parent.parent / "fuzz" / "corpus").iterdir())


@pytest.mark.parametrize("path", [*FOUND, *SEEDS], ids=lambda path: path.name)
def test_input_is_refused_or_decoded(path):
    check_frame(path.read_bytes())
    check_container(path.read_bytes())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_seeds_are_valid(path):
    read = read_container if path.suffix == ".container" else decode
    read(path.read_bytes())


def test_seeds_are_small():
    assert len(SEEDS) > 24
    assert sum(path.stat().st_size for path in SEEDS) < 100_000


def test_seeds_are_those_of_the_script():
    assert {path.name: path.read_bytes() for path in SEEDS} == dict(seeds())
