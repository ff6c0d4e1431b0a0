"""Reading and writing model files: errors in one line, nothing half-written."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from onnx_export import references
from onnx_export.outline import outline, whole
from onnx_export.references import (
    bytes_of,
    inline,
    is_reference,
    model_bytes,
    place_of,
    set_reference,
    size_of,
    tensors_in,
)
from refimpl.errors import Corrupt, ExportError, InvalidArgument, StreamError, Truncated

PROTOBUF_LIMIT = (1 << 31) - (1 << 20)  # bytes; larger models keep their tensors in a second file
LEAST_EXTERNAL = 4096  # bytes of a tensor that a model above the limit keeps in its second file
KINDS = (".onnx", ".safetensors")


def kind_of(path: Path) -> str:
    """``.onnx`` or ``.safetensors``.

    Raises
    ------
    InvalidArgument
        Another ending.

    Examples
    --------
    >>> kind_of(Path("model.onnx"))
    '.onnx'
    """
    if path.suffix not in KINDS:
        raise InvalidArgument(f"{path}: the file name must end in .onnx or .safetensors")
    return path.suffix


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX model, its large tensors as references (`onnx_export.references`), external ones included.

    Raises
    ------
    ExportError
        Not there, not an ONNX model, or its external tensors are not there.
    Truncated
        It begins like one and does not parse to the end.
    Corrupt
        A name in it is not text.
    """
    return resolve(read_outline(path), path)


def read_outline(path: Path) -> onnx.ModelProto:
    """Read an ONNX model, external tensors as its file has them; raises what `read_model` does."""
    try:
        model = outline(path)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from None
    except (DecodeError, IndexError, RecursionError):
        # Every ONNX file begins with its IR version, field 1.
        with path.open("rb") as file:
            begin = file.read(3)
        if begin[:1] == b"\x08" and len(begin) > 2:
            raise Truncated(f"{path}: truncated or damaged ONNX model") from None
        raise ExportError(f"{path}: not an ONNX model") from None
    return check_model(model, path)


def resolve(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Find the external tensors of a model, in place: large ones become references, small ones are read.

    Raises
    ------
    ExportError
        One is not in a file of the model's folder.
    """
    own = str(path.resolve())
    for tensor in [message for message in submessages(model) if isinstance(message, onnx.TensorProto)]:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        try:
            if not (is_reference(tensor) and place_of(tensor)[0] == own):
                set_reference(tensor, *external_place(tensor, path.parent))
            if size_of(tensor) < references.LARGE:
                tensor.CopyFrom(inline(tensor))
        except (OSError, ValueError, KeyError, RuntimeError, Corrupt) as error:  # RuntimeError: links in a circle
            raise ExportError(f"{path}: the external tensors cannot be read: {first_line(error)}") from None
    return model


def external_place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """(path, offset, length) of an external tensor.

    Raises
    ------
    OSError, KeyError, ValueError
        Its file is not there, not in the folder, or too short.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    place = (folder / entries["location"]).resolve()
    if Path(entries["location"]).is_absolute() or not place.is_relative_to(folder.resolve()):
        raise ValueError(f"{tensor.name}: its file lies outside the model's folder")
    size, offset = place.stat().st_size, int(entries.get("offset", 0))
    length = int(entries["length"]) if "length" in entries else size - offset
    if not place.is_file() or offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"{tensor.name}: its file is too short")
    return place, offset, length


def check_model(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model, if it is one.

    Raises
    ------
    ExportError
        It lacks what every model has.
    Corrupt
        A name in it is not text.
    """
    if not model.ir_version or not model.opset_import or not model.graph.node:
        raise ExportError(f"{path}: not an ONNX model")
    if any(isinstance(text, bytes) for message in submessages(model) for text in texts(message)):
        raise Corrupt(f"{path}: damaged ONNX model: a name is not UTF-8")
    return model


def is_small(model: onnx.ModelProto) -> bool:
    """Whether one protobuf can hold a model, all bytes of its tensors included."""
    try:
        return model_bytes(model) < PROTOBUF_LIMIT
    except EncodeError:  # how some versions of protobuf say that it is too large
        return False


def submessages(message: Message) -> Iterator[Message]:
    """A protobuf message and all messages inside it."""
    yield message
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            value = getattr(message, field.name)
            if not isinstance(value, Message):
                for item in value:
                    yield from submessages(item)
            elif message.HasField(field.name):
                yield from submessages(value)


def texts(message: Message) -> Iterator[str | bytes]:
    """The strings of a message; protobuf gives one that is not UTF-8 as bytes."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            value = getattr(message, field.name)
            yield from [value] if isinstance(value, str | bytes) else value


def file_bytes(path: Path) -> int:
    """Size of a model file, the files of its external tensors included."""
    files = {path.resolve()}
    if path.suffix == ".onnx":
        tensors = [m for m in submessages(read_outline(path)) if isinstance(m, onnx.TensorProto)]
        files |= {(path.parent / e.value).resolve() for t in tensors for e in t.external_data if e.key == "location"}
    return sum(file.stat().st_size for file in files)


def map_bytes(path: Path) -> bytes | mmap.mmap:
    """All bytes of a file, read when they are used.

    Raises
    ------
    ExportError
        It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from None


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a ``.npy`` file.

    Raises
    ------
    InvalidArgument
        It cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror or 'not a readable .npy file'}") from None
    except Exception as error:  # what looks like an archive raises whatever zipfile meets
        raise InvalidArgument(f"{path}: not a readable .npy file ({type(error).__name__})") from None
    if not isinstance(loaded, np.ndarray):
        raise InvalidArgument(f"{path}: not a .npy file")
    return loaded


def write_model(model: onnx.ModelProto, path: Path, *, force: bool = False) -> None:
    """Write an ONNX model; above 2 GB its tensors go to ``<name>.data`` beside it.

    What it refers to is written piece by piece and never held.

    Raises
    ------
    InvalidArgument
        The file exists and ``force`` is not set.
    ExportError
        The folder cannot be written.
    """
    if is_small(model):
        write_whole(path, lambda part: write_pieces(whole(model), part), force=force)
        return
    location = f"{path.name}.data"
    write_whole(path, lambda part: write_external(model, part, location), force=force, beside=(location,))


def write_pieces(pieces: Iterable[bytes | memoryview], path: Path) -> None:
    """Write a file."""
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def write_external(model: onnx.ModelProto, path: Path, location: str) -> None:
    """Write a model with its initializers in a file beside it."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    with (path.parent / location).open("wb") as file:
        for tensor in tensors_in(light.graph, attributes=False):
            if (length := size_of(tensor)) >= LEAST_EXTERNAL:
                data, offset = bytes_of(tensor), file.tell()
                file.write(data.data)
                set_reference(tensor, location, offset, length)
    write_pieces(whole(light), path)


def write_whole(path: Path, write: Callable[[Path], object], *, force: bool, beside: tuple[str, ...] = ()) -> None:
    """Let ``write`` fill a file of a temporary folder, then move it to its place in one step.

    Whatever interrupts the writing (an error, a full disk, Ctrl-C), ``path`` holds what it held before.

    Parameters
    ----------
    path : Path
    write : callable
        Takes the temporary path; its name is that of ``path``.
    force : bool
        Replace an existing file.
    beside : tuple of str
        Names of further files that ``write`` makes in the same folder, moved first.

    Raises
    ------
    InvalidArgument
        The file exists and ``force`` is not set.
    ExportError
        The folder cannot be written.
    """
    check_output(path, force=force)
    with folder_beside(path) as folder:
        try:
            write(folder / path.name)
            for name in (*beside, path.name):
                with (folder / name).open("rb") as file:
                    os.fsync(file.fileno())
                (folder / name).replace(path.parent / name)
        except OSError as error:
            raise ExportError(f"{path}: {error.strerror or error}") from None


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder where a file is to be written.

    Raises
    ------
    ExportError
        There cannot be one.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output before the work begins rather than after it.

    Raises
    ------
    InvalidArgument
        The file exists and ``force`` is not set, or it is a folder.
    ExportError
        Its folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder")
    if path.exists() and not force:
        raise InvalidArgument(f"{path} exists; --force replaces it")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise ExportError(f"{path}: the folder {path.parent} cannot be written")


def check_distinct(*paths: Path) -> None:
    """Refuse to write two things to one file, or over what is read.

    Raises
    ------
    InvalidArgument
        Two of the paths are the same file.
    """
    for i, path in enumerate(paths):
        for other in paths[:i]:
            if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
                raise InvalidArgument(f"{path} and {other} are the same file")


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Put a name before the message of decoding errors: that of a tensor, then that of its file.

    Examples
    --------
    >>> with naming("model.onnx"), naming("weight"):
    ...     raise Truncated("3 bytes missing")
    Traceback (most recent call last):
    refimpl.errors.Truncated: model.onnx: weight: 3 bytes missing
    """
    try:
        yield
    except StreamError as error:
        raise error if str(error).startswith(f"{what}: ") else type(error)(f"{what}: {error}") from None


def first_line(error: Exception) -> str:
    r"""The first line of an error's message.

    Examples
    --------
    >>> first_line(ValueError("bad shape\ntraceback"))
    'bad shape'
    """
    return str(error).strip().split("\n", 1)[0]


def one_line(error: Exception, most: int = 300) -> str:
    r"""An error's message in one line, cut where it goes on for long.

    Examples
    --------
    >>> one_line(ValueError("Got invalid dimensions for input: x\n index: 1 Got: 3"))
    'Got invalid dimensions for input: x index: 1 Got: 3'
    """
    words = " ".join(str(error).split())
    return words if len(words) <= most else f"{words[:most]} ..."
