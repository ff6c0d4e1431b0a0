"""Every error that tansor raises on purpose.

::

    TansorError
    ├── InvalidArgument      (also a ValueError)  the caller's arguments are wrong
    ├── CalibrationError     calibration data of the wrong name, shape or dtype
    ├── StreamError          (also a ValueError)  the stored bytes are wrong
    │   ├── Truncated            the bytes end before the fields that announce them
    │   ├── Corrupt              a field or a checksum contradicts another
    │   ├── UnsupportedVersion   written by a version that this one cannot read
    │   └── LimitExceeded        valid, but larger than this decoder accepts
    └── ExportError          a model cannot be read, rewritten or written

The command line turns a `StreamError` into exit status 3 and every other
`TansorError` into exit status 2.
"""


class TansorError(Exception):
    """Root of all errors raised on purpose."""


class InvalidArgument(TansorError, ValueError):
    """An argument is outside what the function accepts."""


class CalibrationError(TansorError):
    """Calibration data do not fit the model."""


class StreamError(TansorError, ValueError):
    """Stored bytes cannot be decoded."""


class Truncated(StreamError):
    """The bytes end before the fields that announce them."""


class Corrupt(StreamError):
    """A field or a checksum contradicts another."""


class UnsupportedVersion(StreamError):
    """The bytes were written by a version that this one cannot read."""


class LimitExceeded(StreamError):
    """The bytes are valid, but larger than this decoder accepts."""


class ExportError(TansorError):
    """A model cannot be read, rewritten or written."""
