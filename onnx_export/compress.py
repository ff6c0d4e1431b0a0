"""compress: a model in, a smaller model out, and a report of what was done to every tensor."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_export.budget import fit_budget, plan_note
from onnx_export.calibration import Samples, read_samples
from onnx_export.compress_onnx import compress_onnx
from onnx_export.compress_safetensors import compress_safetensors
from onnx_export.evaluate import read_tokens
from onnx_export.files import check_distinct, check_output, folder_beside, kind_of
from onnx_export.measure import Setup
from onnx_export.progress import Progress, silent
from onnx_export.recipes import Recipe
from onnx_export.recipes import recipe as recipe_by_name
from onnx_export.references import Scratch
from onnx_export.runtime import PROVIDERS
from onnx_export.summary import summarize
from onnx_export.tensors import Lines, Options
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
    prune_budget: str | None = None,
    tokens: str | os.PathLike[str] | npt.NDArray[np.integer] | None = None,
    exclude: Sequence[str] = (),
    profile: str = "gpu",
    fraction: float = 1.0,
    jobs: int | None = None,
    work: str | os.PathLike[str] | None = None,
    scheduler: str | None = None,
    latency_budget: float | None = None,
    device: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
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
    prune_budget : {"layer", "global"}, optional
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
    latency_budget : float, optional
        Latency over that of the model with plain weights, 1 or more, as measured on this machine: chooses the fraction
        of each tensor that is coded, and whether it is decoded at each use or once while loading, so that a session of
        mode auto takes the least memory. See `onnx_export.budget`.
    device : {"cpu", "cuda"}, optional
        On which the latency counts; default the CPU.
    batch : int, optional
        At which the latency counts; default 1.
    threads : int, optional
        Of the sessions that measure it on the CPU; default ONNX Runtime's.
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
    chosen = recipe_by_name(recipe, sparsity, target_bits, max_loss, activations, prune_budget)
    options = check_options(source, output, chosen, exclude, profile, fraction, jobs)
    if (work is not None or scheduler is not None) and not (chosen.rate or chosen.prune):
        raise InvalidArgument(f"the recipe {recipe} takes seconds: --work and --scheduler are for rate and aggressive")
    if scheduler is not None and work is None:
        raise InvalidArgument("--scheduler needs a --work folder that all workers see")
    # A weight in bands has no fraction of its own to choose, and no integer kernel takes it.
    bands = latency_budget is None and not chosen.quantizes_activations
    options = replace(options, work=None if work is None else Path(work), scheduler=scheduler, bands=bands)
    if (tokens is None) != (max_loss is None):
        raise InvalidArgument("--max-loss is measured on --tokens: give both or neither")
    if calibration is not None and options.recipe.keeps_floats:
        raise InvalidArgument(f"the recipe {recipe} changes no value: calibration data do not apply")
    setup = check_budget(source, latency_budget, device, batch, threads, fraction)
    if latency_budget is not None and calibration is not None:
        given = read_samples(Path(calibration)) if isinstance(calibration, str | os.PathLike) else calibration
        setup = replace(setup, samples=given)
    if chosen.quantizes_activations and kind_of(source) != ".onnx":
        raise InvalidArgument("--activations int8 needs a graph to run: a .safetensors file has none")
    if chosen.quantizes_activations and calibration is None:
        raise InvalidArgument("--activations int8 takes the activations' ranges from samples: it needs --calibration")
    check_output(output, force=force)
    check_distinct(source, output)
    tell = progress or silent
    fitted: dict[str, Any] | None = None
    if kind_of(source) == ".onnx":
        windows = None if tokens is None else read_tokens(tokens)
        with folder_beside(output) as folder:
            options = replace(options, scratch=Scratch(folder))
            if latency_budget is None:
                lines = compress_onnx(source, output, options, calibration, windows, tell, force=force)
            else:
                whole = folder / source.name
                lines = compress_onnx(source, whole, options, calibration, windows, tell, force=False)
                fitted = fit_budget(
                    whole, output, latency_budget, setup=setup, profile=profile, force=force, progress=tell
                )
                lines = as_fitted(lines, fitted)
    else:
        if options.recipe.rate is not None or options.recipe.prune is not None:
            raise InvalidArgument(f"the recipe {recipe} needs a graph to run: a .safetensors file has none")
        if options.recipe.prune_budget == "global":
            raise InvalidArgument(
                "a .safetensors file is compressed tensor by tensor: --prune-budget global needs .onnx"
            )
        if calibration is not None:
            raise InvalidArgument("calibration data need a graph to run: a .safetensors file has none")
        with folder_beside(output) as folder:
            lines = compress_safetensors(source, output, replace(options, scratch=Scratch(folder)), tell, force=force)
    return summarize(source, output, options, *lines, time.perf_counter() - started, fitted)


def check_budget(
    source: Path,
    budget: float | None,
    device: str | None,
    batch: int | None,
    threads: int | None,
    fraction: float,
) -> Setup:
    """How a latency budget is measured, if what is asked for goes together.

    Raises
    ------
    InvalidArgument
        It does not.
    """
    if budget is None:
        if (device, batch, threads) != (None, None, None):
            raise InvalidArgument("--device, --batch and --threads say where a --latency-budget counts: there is none")
        return Setup()
    if not 1 <= budget < float("inf"):
        raise InvalidArgument(f"latency_budget is {budget}, allowed are numbers from 1")
    if kind_of(source) != ".onnx":
        raise InvalidArgument("a latency budget needs a graph to run: a .safetensors file has none")
    if fraction != 1:
        raise InvalidArgument("--latency-budget chooses the fraction of each tensor: --fraction does not apply")
    if device not in (None, *PROVIDERS):
        raise InvalidArgument(f"device is {device!r}, allowed are {', '.join(PROVIDERS)}")
    return Setup(device or "cpu", 1 if batch is None else batch, threads)


def as_fitted(lines: Lines, budget: dict[str, Any]) -> Lines:
    """The lines of the report after tensors were coded anew for a budget, which adds a note."""
    tensors, skipped, notes = lines
    by_name = {t["name"]: t for t in budget["tensors"]}
    now = [
        replace(line, **{key: by_name[line.name][key] for key in ("mode", "stored_bytes", "side_bytes")})
        for line in tensors
    ]
    return now, skipped, [*notes, plan_note(budget)]


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
