"""compress: a model in, a smaller model out, and a report of what was done to every tensor."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_export.calibration import Samples
from onnx_export.compress_onnx import compress_onnx
from onnx_export.compress_safetensors import compress_safetensors
from onnx_export.files import check_distinct, check_output, kind_of
from onnx_export.progress import Progress, silent
from onnx_export.recipes import recipe as recipe_by_name
from onnx_export.summary import summarize
from onnx_export.tensors import Options
from refimpl.errors import InvalidArgument


def compress(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipe: str = "double",
    calibration: Samples | None = None,
    sparsity: float | None = None,
    exclude: Sequence[str] = (),
    profile: str = "gpu",
    fraction: float = 1.0,
    jobs: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compress a model file.

    Parameters
    ----------
    source, output : path
        ``.onnx`` or ``.safetensors``, both of the same kind.
    recipe : {"double", "lossless"}
    calibration : path, array or mapping, optional
        Samples of the model's inputs: ``.npy``, ``.npz`` or arrays; the first axis counts samples.
    sparsity : float, optional
        Share of each layer to prune instead of the recipe's.
    exclude : sequence of str
        Glob patterns of tensors to copy as they are.
    profile : {"gpu", "archive"}
        Short lanes for parallel decoding or long ones for size.
    fraction : float
        Share of each tensor to code; the rest is stored raw and decodes faster.
    jobs : int, optional
        Threads; default one per core.
    force : bool
        Replace an existing output.
    progress : callable, optional
        Told (what, done, of how many).

    Returns
    -------
    dict
        The report; its keys are listed in docs/guide.md.

    Raises
    ------
    TansorError
        See `refimpl.errors`. The output is then as it was before.
    """
    started = time.perf_counter()
    source, output = Path(source), Path(output)
    options = check_options(source, output, recipe, sparsity, exclude, profile, fraction, jobs)
    if calibration is not None and options.recipe.weights is None:
        raise InvalidArgument(f"the recipe {recipe} changes no value: calibration data do not apply")
    check_output(output, force=force)
    check_distinct(source, output)
    tell = progress or silent
    if kind_of(source) == ".onnx":
        lines = compress_onnx(source, output, options, calibration, tell, force=force)
    else:
        if calibration is not None:
            raise InvalidArgument("calibration data need a graph to run: a .safetensors file has none")
        lines = compress_safetensors(source, output, options, tell, force=force)
    return summarize(source, output, options, *lines, time.perf_counter() - started)


def check_options(
    source: Path,
    output: Path,
    recipe: str,
    sparsity: float | None,
    exclude: Sequence[str],
    profile: str,
    fraction: float,
    jobs: int | None,
) -> Options:
    """The options, if all of them are allowed.

    Raises
    ------
    InvalidArgument
        One is not.
    """
    if kind_of(source) != kind_of(output):
        raise InvalidArgument(f"{source} and {output} must both be .onnx or both .safetensors")
    if profile not in ("gpu", "archive"):
        raise InvalidArgument(f"profile is {profile!r}, allowed are gpu, archive")
    if not 0 < fraction <= 1:
        raise InvalidArgument(f"fraction is {fraction}, allowed are numbers above 0 up to 1")
    if jobs is not None and jobs < 1:
        raise InvalidArgument(f"jobs is {jobs}, allowed are 1 and more")
    return Options(recipe_by_name(recipe, sparsity), tuple(exclude), profile, fraction, jobs or os.cpu_count() or 1)
