"""compress: a model in, a smaller model out, and a report of what was done to every tensor."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_export.calibration import Samples
from onnx_export.compress_onnx import compress_onnx
from onnx_export.compress_safetensors import compress_safetensors
from onnx_export.evaluate import read_tokens
from onnx_export.files import check_distinct, check_output, kind_of
from onnx_export.progress import Progress, silent
from onnx_export.recipes import Recipe
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
    target_bits: float | None = None,
    max_loss: float | None = None,
    activations: str | None = None,
    budget: str | None = None,
    tokens: str | os.PathLike[str] | npt.NDArray[np.integer] | None = None,
    exclude: Sequence[str] = (),
    profile: str = "gpu",
    fraction: float = 1.0,
    jobs: int | None = None,
    work: str | os.PathLike[str] | None = None,
    scheduler: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compress a model file.

    Parameters
    ----------
    source, output : path
        ``.onnx`` or ``.safetensors``, both of the same kind.
    recipe : {"double", "rate", "aggressive", "lossless"}
    calibration : path, array or mapping, optional
        Samples of the model's inputs: ``.npy``, ``.npz`` or arrays; the first axis counts samples.
    sparsity : float, optional
        Share of matrix products' weights to prune instead of the recipe's; tables and convolutions are not pruned.
    target_bits : float, optional
        Bits per weight of the whole model that the recipe rate is to meet, every stored byte counted.
    max_loss : float, optional
        Loss of perplexity in percent that the recipe rate may spend, measured on ``tokens``.
    activations : {"int8"}, optional
        Quantize what matrix products and convolutions read, too, with the recipe double; needs calibration.
    budget : {"layer", "global"}, optional
        Whether each layer is pruned by the sparsity of the recipe double, or all by one threshold of normalized scores.
    tokens : path or integer array, optional
        Windows of tokens for ``max_loss``, shape (windows, length); not those that calibrate.
    exclude : sequence of str
        Glob patterns of tensors to copy as they are.
    profile : {"gpu", "archive"}
        Short lanes for parallel decoding or long ones for size.
    fraction : float
        Share of each tensor to code; the rest is stored raw and decodes faster.
    jobs : int, optional
        Threads; default one per core.
    work : path, optional
        Folder that keeps what the recipes rate and aggressive have finished: the same command, run again, goes on
        from there. Nothing in it is ever removed.
    scheduler : str, optional
        Address of a Dask scheduler whose workers quantize layers; they must see the folder ``work``.
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
    chosen = recipe_by_name(recipe, sparsity, target_bits, max_loss, activations, budget)
    options = check_options(source, output, chosen, exclude, profile, fraction, jobs)
    if (work is not None or scheduler is not None) and not (chosen.rate or chosen.prune):
        raise InvalidArgument(f"the recipe {recipe} takes seconds: --work and --scheduler are for rate and aggressive")
    if scheduler is not None and work is None:
        raise InvalidArgument("--scheduler needs a --work folder that all workers see")
    options = replace(options, work=None if work is None else Path(work), scheduler=scheduler)
    if (tokens is None) != (max_loss is None):
        raise InvalidArgument("--max-loss is measured on --tokens: give both or neither")
    if calibration is not None and options.recipe.keeps_floats:
        raise InvalidArgument(f"the recipe {recipe} changes no value: calibration data do not apply")
    if chosen.quantizes_activations and calibration is None:
        raise InvalidArgument("--activations int8 takes the activations' ranges from samples: it needs --calibration")
    check_output(output, force=force)
    check_distinct(source, output)
    tell = progress or silent
    if kind_of(source) == ".onnx":
        windows = None if tokens is None else read_tokens(tokens)
        lines = compress_onnx(source, output, options, calibration, windows, tell, force=force)
    else:
        if options.recipe.rate is not None or options.recipe.prune is not None:
            raise InvalidArgument(f"the recipe {recipe} needs a graph to run: a .safetensors file has none")
        if options.recipe.budget == "global":
            raise InvalidArgument("a .safetensors file is compressed tensor by tensor: --budget global needs .onnx")
        if calibration is not None:
            raise InvalidArgument("calibration data need a graph to run: a .safetensors file has none")
        lines = compress_safetensors(source, output, options, tell, force=force)
    return summarize(source, output, options, *lines, time.perf_counter() - started)


def check_options(
    source: Path,
    output: Path,
    recipe: Recipe,
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
    return Options(recipe, tuple(exclude), profile, fraction, jobs or os.cpu_count() or 1)
