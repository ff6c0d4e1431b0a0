"""The steps that a backend may offer: names and order of what goes in and comes out.

A Python backend has a function of the step's name that takes inputs and parameters by name and returns
the outputs as a tuple, or the array itself if there is one output. A step that a backend lacks is
skipped. The pages of docs/spec/ say what each step computes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step's interface."""

    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[str, ...]  # empty: their names depend on the case
    page: str  # docs/spec/<page>.md

    def signature(self, name: str) -> str:
        """The step as a call.

        Examples
        --------
        >>> STEPS["select"].signature("select")
        'select(score, k) -> mask'
        """
        given = ", ".join((*self.inputs, *self.parameters))
        return f"{name}({given}) -> {', '.join(self.outputs) or 'outputs by name'}"


STEPS = {
    "max_scale": Step(("activation_max",), ("exponent",), ("scale",), "scaling"),
    "absorb": Step(("array", "channel_scale"), ("inverse",), ("array",), "scaling"),
    "quantize_activations": Step(
        ("activations",), ("lowest", "highest"), ("codes", "scale", "zero_point"), "activations"
    ),
    "integer_linear": Step(
        ("activation_codes", "activation_scale", "activation_zero_point", "weight_codes", "weight_scale"), (),
        ("product",), "activations",
    ),
    "quantize": Step(
        ("weight",), ("bits", "symmetric", "granularity", "group_size"), ("codes", "scale", "zero_point"),
        "quantization",
    ),
    "dequantize": Step(("codes", "scale", "zero_point"), ("group_size",), ("weight",), "quantization"),
    "prune": Step(
        ("weight", "codes", "zero_point", "activation_max"), ("score", "sparsity"), ("mask", "codes"), "pruning"
    ),
    "select": Step(("score",), ("k",), ("mask",), "pruning"),
    "smoothquant_scale": Step(("activation_max", "weight"), ("alpha",), ("scale",), "scaling"),
    "awq_scale": Step(("activation_mean",), ("ratio",), ("scale",), "scaling"),
    "search_awq": Step(
        ("weight", "activation_mean", "hessian"), ("bits", "symmetric", "granularity", "group_size"),
        ("ratio", "scale", "weight", "error"), "scaling",
    ),
    "wanda": Step(("weight", "mean_square"), ("sparsity", "pattern"), ("score", "mask"), "pruning"),
    "second_moment": Step(("activations",), (), ("hessian",), "hessian"),
    "inverse_factor": Step(("hessian",), ("damping",), ("factor",), "hessian"),
    "feed_back": Step(("weight", "factor"), ("step", "block"), ("settled", "error"), "hessian"),
    "gptq": Step(
        ("weight", "factor", "order"), ("bits", "symmetric", "granularity", "group_size", "static_groups", "block"),
        ("codes", "scale", "zero_point", "error"), "hessian",
    ),
    "sparsegpt": Step(("weight", "factor"), ("sparsity", "pattern", "block"), ("mask", "weight", "error"), "pruning"),
    "sparsegpt_quantize": Step(
        ("weight", "factor"), ("sparsity", "pattern", "bits", "symmetric", "granularity", "group_size", "block"),
        ("mask", "codes", "scale", "zero_point", "error"), "pruning",
    ),
    "estimated_loss": Step(("weight", "factor"), (), ("loss",), "pruning"),
    "schedule": Step(("losses", "sizes"), ("sparsity",), ("sparsities",), "pruning"),
    "target_raises": Step(("errors", "sizes"), ("allowed", "most"), ("raises",), "pipeline"),
    "too_coarse": Step(("errors", "sizes", "costs"), ("allowed", "most"), ("left",), "pipeline"),
    "rate_curve": Step(("weight",), (), ("step", "bits", "error"), "rate"),
    "quantize_rate": Step(("weight", "factor"), ("step", "price"), ("codes",), "rate"),
    "allocate": Step(
        ("curve_step", "curve_bits", "curve_error", "weights", "gain", "overhead"), ("target_bits", "target_error"),
        ("step", "bits", "error"), "rate",
    ),
    "log2_fixed": Step(("x",), (), ("logarithm",), "tans"),
    "normalize_counts": Step(("histogram",), ("table_log",), ("counts",), "tans"),
    "choose_model": Step(("histogram",), ("lane_count", "table_log"), ("counts", "classes"), "tans"),
    "spread": Step(("counts",), (), ("symbol",), "tans"),
    "decode_table": Step(("counts",), (), ("symbol", "bit_count", "base"), "tans"),
    "encode_table": Step(("counts",), (), ("bit_count_delta", "first_slot", "next_state", "last_state"), "tans"),
    "split_chunks": Step(("symbols",), ("chunk", "chunks_per_block", "coded_chunks"), ("raw", "coded"), "tans"),
    "merge_chunks": Step(("raw", "coded"), ("chunk", "chunks_per_block", "coded_chunks"), ("symbols",), "tans"),
    "encode": Step(("symbols",), ("profile", "fraction", "table_log", "lane_count"), ("frame",), "frame"),
    "decode": Step(("frame",), (), ("symbols",), "frame"),
    "read_container": Step(("data",), (), (), "container"),
    "onnx": Step(("model",), (), (), "onnx"),
}  # fmt: skip
