"""The table of chip rules: what the hardware is known to refuse or to compute wrongly.

A row says how bad, which check, who reported it, on which chips and for which ops. Nothing here was
measured by us. Reports are cited by project: ANEForge (sbryngelson), cgane
(computer-graphics-tools/ane), Espresso (christopherkarani), field guide (skyfallsin, M3 Max), imk
(imperatormk/ane-train, M1), libane (AmiraniLabs), maderix (maderix/ANE), Orion (mechramc, M4 Max),
rustane (ncdrone, M4 Max).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import checks
from .checks import REDUCTIONS, UNAVAILABLE, Context
from .chips import CHIPS, Chip
from .program import Op, Program
from .types import Value

REFUSE = "refuse"  # does not compile, fails, or gives wrong numbers
WARN = "warn"  # reports contradict each other, or it depends on the data

Subject = Value | Op | Program
ALL = tuple(CHIPS)
M1, M1_M2, M1_TO_M3, M1_TO_M4 = ALL[:1], ALL[:2], ALL[:3], ALL[:4]
M2_ON, M3_ON, M3, M5 = ALL[1:], ALL[2:], ALL[2:3], ALL[4:]

BINARY = ("add", "sub", "mul", "real_div", "maximum", "minimum", "pow")
SLICES = ("slice_by_size", "slice_by_index", "split")
UNPROVEN = (
    *("real_div", "maximum", "minimum", "square", "silu", "select"),
    *("split", "expand_dims", "squeeze"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A row. `check` gives the reason where the rule is broken; `kinds` limits it to these ops."""

    name: str
    severity: str
    check: Callable[..., str | None]
    source: str
    chips: tuple[str, ...] = ALL
    kinds: tuple[str, ...] = ()


PORT_RULES = (
    Rule("port-dtype", REFUSE, checks.port_dtype, "ANEForge: bool never, integers not shown"),
    Rule("port-fp32", REFUSE, checks.port_fp32, "maderix#6, imk: the cast fails on M1", M1),
    Rule("port-fp32", WARN, checks.port_fp32, "maderix: fp16 ports are 37 % faster", M2_ON),
    Rule("port-shape", WARN, checks.port_shape, "every project uses [1, C, 1, W]"),
    Rule("port-channels", WARN, checks.port_channels, "rustane: else silent corruption"),
    Rule("port-width", REFUSE, checks.width_multiple(32), "field guide, libane: else garbage"),
    Rule("port-width-64", WARN, checks.width_multiple(64), "cgane: else error 0x1d", M1_TO_M4),
    Rule("port-width-64", REFUSE, checks.width_multiple(64), "maderix PR 35: 128 bytes", M5),
)

PROGRAM_RULES = (
    Rule("port-order", REFUSE, checks.ports_sorted, "Orion: bound in alphabetical order"),
    Rule("port-sizes", WARN, checks.ports_alike, "Orion, libane: equal sizes; not in cgane"),
    Rule("port-count", WARN, checks.ports_single, "maderix: error 0x1d; not in Orion, imk"),
    Rule("weights-size", REFUSE, checks.weights_size, "ANEForge: about 2 GB a program"),
    Rule("file-per-constant", WARN, checks.file_per_constant, "maderix#3: fails on M1", M1),
    Rule("opset", WARN, checks.opset, "maderix#3: program(1.3) works in part on M1", M1),
)

VALUE_RULES = (
    Rule("channel-limit", REFUSE, checks.channels, "ANEForge: 65536 channels"),
    Rule("spatial-limit", REFUSE, checks.spatial, "ANEForge: 16384 to M3, 65536 from M4"),
)

OP_RULES = (
    Rule(
        "op-unavailable",
        REFUSE,
        checks.unavailable,
        "ANEForge, field guide, maderix, Orion",
        kinds=tuple(UNAVAILABLE),
    ),
    Rule("op-unproven", WARN, checks.always("has no report"), "none found", kinds=UNPROVEN),
    Rule("op-fp32", WARN, checks.computes_fp32, "ANEForge: computes in fp16 only"),
    Rule("constant-range", REFUSE, checks.constant_range, "the range of fp16"),
    Rule("matmul-depth", REFUSE, checks.matmul_depth, "ANEForge", kinds=("matmul",)),
    Rule("matmul-depth-32", REFUSE, checks.matmul_depth_32, "imk: else 0", M1, ("matmul",)),
    Rule("matmul-constant", REFUSE, checks.matmul_constant, "imk: fails", M1, ("matmul",)),
    Rule("matmul-rank", WARN, checks.matmul_rank, "imk: rank 3 only", M1, ("matmul",)),
    Rule("conv-weight", REFUSE, checks.conv_weight, "field guide, ANEForge", kinds=("conv",)),
    Rule("conv-channels", REFUSE, checks.conv_channels, "maderix: 32000 fail", kinds=("conv",)),
    Rule("conv-kernel", REFUSE, checks.conv_kernel, "ANEForge", M1, ("conv",)),
    Rule("conv-bias", WARN, checks.conv_bias, "Orion: fails; not in cgane", kinds=("conv",)),
    Rule("width-slice", WARN, checks.width_slice, "ANEForge", M1_M2, SLICES),
    Rule("width-concat", WARN, checks.width_concat, "rustane#9: M3 Ultra", M3, ("concat",)),
    Rule("interleave", WARN, checks.interleave, "no project uses it", kinds=("concat",)),
    Rule("softmax-axis", WARN, checks.softmax_axis, "no other in use", kinds=("softmax",)),
    Rule(
        "softmax-length",
        WARN,
        checks.softmax_length,
        "Espresso, hollance/neural-engine#44",
        kinds=("softmax",),
    ),
    Rule("root", REFUSE, checks.root_of_reduction, "rustane: fails", kinds=("sqrt", "rsqrt")),
    Rule("small-epsilon", WARN, checks.small_epsilon, "libane", kinds=("rsqrt", "log")),
    Rule("long-sum", WARN, checks.long_reduction, "ANEForge", kinds=("reduce_sum", "reduce_mean")),
    Rule("input-reduction", WARN, checks.input_reduction, "imk: fails", M1, REDUCTIONS),
    Rule("zero-product", REFUSE, checks.zero_product, "ANEForge: fails", kinds=("mul",)),
    Rule("batch-broadcast", WARN, checks.batch_broadcast, "field guide", kinds=BINARY),
    Rule("column-broadcast", REFUSE, checks.column_broadcast, "imk: fails", M1, BINARY),
    Rule(
        "layer-norm",
        WARN,
        checks.always("fails to compile with some gammas"),
        "ANEForge#149",
        kinds=("layer_norm",),
    ),
    Rule(
        "gather", REFUSE, checks.always("may fetch wrong elements"), "ANEForge", M1_M2, ("gather",)
    ),
    Rule("gather", WARN, checks.always("becomes many slices"), "ANEForge", M3_ON, ("gather",)),
    Rule("cast", REFUSE, checks.always("does not run on M1"), "imk, maderix#6", M1, ("cast",)),
    Rule(
        "quantize",
        WARN,
        checks.always("is proven on M4 and M5 only"),
        "maderix",
        M1_TO_M3,
        ("quantize", "dequantize"),
    ),
)


def broken_rules(program: Program, chip: Chip) -> Iterator[tuple[Rule, Subject, str]]:
    """Every broken rule of the tables, its subject and the reason."""
    producers = {value: op for op in program.ops for value in op.outputs}
    context = Context(program, chip, producers)
    groups: tuple[tuple[tuple[Rule, ...], tuple[Subject, ...]], ...] = (
        (PORT_RULES, (*program.inputs, *program.outputs)),
        (PROGRAM_RULES, (program,)),
        (VALUE_RULES, (*program.inputs, *producers)),
        (OP_RULES, program.ops),
    )
    for rules, subjects in groups:
        for rule in rules:
            if chip.name in rule.chips and rule.name not in chip.refuted:
                yield from _broken(rule, subjects, context)


def _broken(
    rule: Rule, subjects: tuple[Subject, ...], context: Context
) -> Iterator[tuple[Rule, Subject, str]]:
    for subject in subjects:
        if rule.kinds and isinstance(subject, Op) and subject.kind not in rule.kinds:
            continue
        reason = rule.check(subject, context)
        if reason is not None:
            yield rule, subject, reason
