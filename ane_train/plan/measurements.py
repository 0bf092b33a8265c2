"""Published times of the plans in `published`, as data with sources.

Whole sequences are what predictions are held against; parts of one are what constants of
`machines` were fitted to. Where a source gives a range, it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ane_train.model.spec import ModelSpec
from ane_train.plan import published
from ane_train.plan.work import StepPlan


def _eight(spec: ModelSpec, sequence: int) -> StepPlan:
    return published.dynamic(spec, sequence, grouped=False)


PLANS: Mapping[str, Callable[[ModelSpec, int], StepPlan]] = MappingProxyType(
    {
        "static": published.static,
        "dynamic-fp32": published.dynamic_fp32,
        "dynamic-eight": _eight,
        "dynamic-ten": published.dynamic,
    }
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sequence that its author timed: rows, or a whole phase, in some categories."""

    phases: tuple[str, ...]
    categories: tuple[str, ...]
    rows: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


_NORMS = ("RMSNorm", "RMSNorm backward")
PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "engine forward": Part(("forward",), ("engine",)),
        "engine backward": Part(("backward",), ("engine",)),
        "copies forward": Part(("forward",), ("copies",), without=("residual",)),
        "copies backward": Part(
            ("backward",), ("copies",), without=("residual backward", "captures")
        ),
        "elementwise": Part(("forward", "head"), ("elementwise",), without=_NORMS),
        "norms": Part(("forward", "backward"), ("elementwise",), _NORMS),
        "norm forward": Part(("forward",), ("elementwise",), ("RMSNorm",)),
        "norm backward": Part(("backward",), ("elementwise",), ("RMSNorm backward",)),
        "silu": Part(("backward",), ("elementwise",), ("SiLU backward",)),
        "captures": Part(("backward",), ("copies",), ("captures",)),
        "classifier": Part(("head",), ("blas", "elementwise")),
    }
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Milliseconds of one sequence, or of a part of it, from `low` to `high`."""

    machine: str
    model: str
    plan: str
    low: float
    high: float
    source: str
    part: str | None = None

    @property
    def seconds(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2000


_RESULTS = "maderix/ANE benchmarks/community_results.json"
_ISSUE = "maderix/ANE#3"
_ULTRA = "maderix/ANE#28"
_README = "maderix/ANE README"
_FIRST = "maderix/ANE, commit message of the dynamic weight pipeline"
_M5_MAX = "maderix/ANE#50"

SEQUENCES = (
    Measurement("m1-pro", "stories110m", "static", 148, 163, f"{_RESULTS}, moriwang"),
    Measurement("m1-max", "stories110m", "static", 143, 167, f"{_RESULTS}, andyg5000"),
    Measurement("m3-ultra", "stories110m", "static", 81.2, 81.2, f"{_ULTRA}, train_large.log"),
    Measurement(
        "m3-ultra", "stories110m", "dynamic-fp32", 115.4, 115.4, f"{_ULTRA}, train_dynamic.log"
    ),
    Measurement("m4", "stories110m", "static", 106.7, 106.7, f"{_ISSUE}, tuxillo"),
    Measurement("m4", "stories110m", "dynamic-fp32", 110, 111, f"{_FIRST}; training/README"),
    Measurement("m4", "stories110m", "dynamic-eight", 91, 91, _README),
    Measurement("m4", "stories110m", "dynamic-ten", 115, 115, "maderix/ANE training/README"),
    Measurement("m4", "qwen3_06b", "dynamic-ten", 412, 412, _README),
    Measurement("m4-pro", "stories110m", "static", 69, 73, f"{_RESULTS}, srt54558"),
    Measurement("m4-max", "stories110m", "static", 64, 64, f"{_RESULTS}, SethBurkart123"),
    Measurement("m4-max", "stories110m", "static", 72.4, 72.4, "dev-erik/ANE BENCHMARK_RESULTS"),
    Measurement("m5", "stories110m", "static", 101, 120, f"{_RESULTS}, GitBubble"),
    Measurement("m5", "stories110m", "static", 125, 128, f"{_RESULTS}, log-wade"),
    Measurement("m5-max", "stories110m", "static", 89.7, 90.2, _M5_MAX),
    Measurement("m5-max", "stories110m", "dynamic-ten", 73.5, 73.5, _M5_MAX),
    Measurement("m5-max", "qwen3_06b", "dynamic-ten", 320, 320, _M5_MAX),
)


def _parts(
    machine: str, plan: str, source: str, **times: float | tuple[float, float]
) -> tuple[Measurement, ...]:
    ranges = {n: t if isinstance(t, tuple) else (t, t) for n, t in times.items()}
    return tuple(
        Measurement(machine, "stories110m", plan, *found, source, name.replace("_", " "))
        for name, found in ranges.items()
    )


TIMED_PARTS = (
    *_parts("m1-pro", "static", f"{_RESULTS}, moriwang", engine_forward=(32, 35)),
    *_parts("m1-max", "static", f"{_RESULTS}, andyg5000", engine_forward=(35, 45)),
    *_parts(
        "m3-ultra",
        "static",
        f"{_ULTRA}, train_large.log",
        engine_forward=(13.9, 15.9),
        copies_forward=(3.4, 3.8),
        elementwise=(13.3, 14.0),
    ),
    *_parts(
        "m3-ultra",
        "dynamic-fp32",
        f"{_ULTRA}, train_dynamic.log, step 10",
        engine_forward=32.7,
        engine_backward=36.6,
        copies_forward=8.5,
        copies_backward=10.5,
        norm_forward=1.8,
        norm_backward=3.9,
        silu=6.0,
        captures=2.5,
        classifier=14.3,
    ),
    *_parts(
        "m4",
        "static",
        f"{_ISSUE}, tuxillo",
        engine_forward=9.6,
        copies_forward=4.2,
        elementwise=15.1,
    ),
    *_parts(
        "m4",
        "dynamic-fp32",
        _FIRST,
        engine_forward=21,
        engine_backward=28,
        copies_forward=12,
        copies_backward=15,
        norms=5,
        silu=10,
        classifier=13,
    ),
    *_parts("m4-pro", "static", f"{_RESULTS}, srt54558", engine_forward=8.9),
    *_parts("m4-max", "static", f"{_RESULTS}, SethBurkart123", engine_forward=10.2),
    *_parts("m5", "static", f"{_RESULTS}, GitBubble", engine_forward=(9.1, 9.8)),
    *_parts("m5-max", "static", _M5_MAX, engine_forward=(7.8, 8.1)),
)
