"""The tasks by name."""

from collections.abc import Callable, Mapping

from benchmarks.quality import fashion, language, ocr, spam
from benchmarks.quality.task import Folders, Task

TASKS: Mapping[str, Callable[[Folders], Task]] = {
    "opt-1m-byte": language.prepare_bytes,
    "opt-29m": language.prepare_words,
    "minilm": spam.prepare,
    "ocr": ocr.prepare,
    "fashion": fashion.prepare,
}
