import pytest

from refimpl import errors


@pytest.mark.parametrize("name", ["Truncated", "Corrupt", "UnsupportedVersion", "LimitExceeded"])
def test_damaged_bytes_are_one_family_of_value_errors(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.StreamError)
    assert issubclass(error, ValueError)
    assert not issubclass(error, errors.InvalidArgument)


def test_all_errors_have_one_root():
    for error in (errors.InvalidArgument, errors.CalibrationError, errors.StreamError, errors.ExportError):
        assert error.__bases__[0] is errors.TansorError
