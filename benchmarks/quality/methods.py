"""The methods that are compared: each entry a point, entries of one name a curve."""

from benchmarks.quality.baselines import SPARSITIES, baselines
from benchmarks.quality.method import LOSSLESS, Method

BITS = (2.0, 2.4, 2.7, 3.0, 3.4, 4.0)
LINEAR_BITS = (2.15, 2.6, 3.1, 4.0)

METHODS = (
    Method("lossless", arguments=LOSSLESS),
    Method("double"),
    Method("double", "pruned 0.3", {"sparsity": 0.3}),
    Method("double", "pruned 0.5", {"sparsity": 0.5}),
    Method("double archive", arguments={"profile": "archive"}),
    Method("double uncalibrated", arguments={"calibration": None}),
    *(Method("rate", f"{bits} bits", {"recipe": "rate", "target_bits": bits}) for bits in BITS),
    Method("rate", arguments={"recipe": "rate"}),
    *(
        Method("rate archive", f"{bits} bits", {"recipe": "rate", "target_bits": bits, "profile": "archive"})
        for bits in (2.4, 3.0, 3.4)
    ),
    *(Method("aggressive", f"pruned {s}", {"recipe": "aggressive", "sparsity": s}) for s in SPARSITIES),
    *baselines("all"),
    *(Method("rate", f"{bits} bits", {"recipe": "rate", "target_bits": bits}, scope="linear") for bits in LINEAR_BITS),
    *(Method("aggressive", f"pruned {s}", {"recipe": "aggressive", "sparsity": s}, scope="linear") for s in SPARSITIES),
    *baselines("linear"),
)
