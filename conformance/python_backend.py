"""Ask a Python module or object: one function per step, called with NumPy arrays by name."""

import importlib
from collections.abc import Mapping
from typing import Any

from conformance.compare import Answer
from conformance.steps import STEPS
from conformance.vectors import Case
from refimpl.errors import InvalidArgument


def load_backend(name: str) -> Any:
    """The backend ``module`` or ``module:object``.

    Raises
    ------
    InvalidArgument
        It cannot be imported, or has none of the steps.

    Examples
    --------
    >>> load_backend("conformance.backends:numba").__name__
    'numba'
    """
    module, _, path = name.partition(":")
    try:
        backend: Any = importlib.import_module(module)
        for attribute in path.split(".") if path else ():
            backend = getattr(backend, attribute)
    except Exception as error:  # whatever a stranger's module does while it is imported
        raise InvalidArgument(f"backend {name!r} cannot be loaded: {type(error).__name__}: {error}") from None
    if not offered(backend):
        raise InvalidArgument(f"backend {name!r} has none of the functions {', '.join(STEPS)}")
    return backend


def offered(backend: Any) -> list[str]:
    """The steps that a backend has.

    Examples
    --------
    >>> offered({"no": "backend"})
    []
    """
    return [step for step in STEPS if callable(getattr(backend, step, None))]


def ask_python(backend: Any, case: Case) -> Answer:
    """Call the backend's function of the case's step."""
    function = getattr(backend, case.step, None)
    if not callable(function):
        return Answer(missing=True)
    inputs = {name: stored.read() for name, stored in case.inputs.items()}
    try:
        result = function(**inputs, **case.parameters)
    except Exception as error:  # any class may be the backend's way to refuse
        return Answer(error=tuple(c.__name__ for c in type(error).__mro__), text=str(error))
    return as_outputs(result, case)


def as_outputs(result: Any, case: Case) -> Answer:
    """A function's result with the names of the outputs: a mapping, a tuple in their order, or the only one."""
    names = STEPS[case.step].outputs or tuple(case.outputs)
    if isinstance(result, Mapping):
        return Answer(dict(result))
    values = result if isinstance(result, tuple) else (result,)
    if len(values) != len(names):
        return Answer(text=f"{len(values)} outputs, expected {', '.join(names) or 'an error'}")
    return Answer(dict(zip(names, values, strict=True)))
