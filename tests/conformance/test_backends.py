import pytest

from conformance.backends import Reference, numba, numpy_reference
from conformance.python_backend import offered
from conformance.run import run
from conformance.steps import STEPS
from conformance.vectors import load_cases
from refimpl.errors import InvalidArgument


@pytest.mark.parametrize("backend", [numpy_reference, numba], ids=["numpy", "numba"])
def test_our_own_backends_pass_every_case(backend):
    results = run(backend, load_cases())
    assert [result for result in results if result.status == "failed"] == []
    assert {result.id.split("/")[0] for result in results if result.status == "skipped"} == {"onnx"}
    assert set(offered(backend)) == STEPS.keys() - {"onnx"}


def test_they_are_named_and_differ_in_their_kernels():
    assert (numpy_reference.__name__, numba.__name__) == ("numpy_reference", "numba")
    assert numpy_reference.kernels is not numba.kernels
    assert isinstance(numba, Reference)


def test_a_score_by_activations_needs_them():
    case = next(c for c in load_cases(["prune"]) if c.name == "drawn-magnitude-0.5")
    inputs = {name: stored.read() for name, stored in case.inputs.items()}
    with pytest.raises(InvalidArgument, match="activation maxima"):
        numba.prune(**inputs, score="linf", sparsity=0.5)
