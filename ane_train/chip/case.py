"""One case of a benchmark: what it builds, how long it may take, what is timed once it is proved.

There is one way to run a case, `try_case`, and it times nothing that was not proved right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ane_train.chip.proof import UnprovedError
from ane_train.chip.results import OK, Fit, Proof, Result, Series
from ane_train.chip.settings import Settings
from ane_train.chip.timing import FULL, QUICK, Effort
from ane_train.doctor.run import meaning
from ane_train.errors import AneTrainError
from ane_train.isolation.scrub import scrub
from ane_train.mil import Chip
from ane_train.native.engine import Context

QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Bench:
    """The engine at hand; chip: of an ANE, None for the software engine."""

    context: Context
    chip: Chip | None
    settings: Settings

    @property
    def effort(self) -> Effort:
        """How many samples are taken."""
        return QUICK if self.settings.quick else FULL


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, and what else is to be said."""

    series: tuple[Series, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


class Proved(Protocol):
    """What is known to be right, as what can be timed."""

    @property
    def proof(self) -> Proof:
        """How far off it was."""

    @property
    def values(self) -> Mapping[str, float]:
        """What proving it told besides."""


class Provable(Protocol):
    """Something that can be proved right: an `Experiment`, or a training step."""

    def prove(self, context: Context) -> AbstractContextManager[Proved]:
        """Lends it, ready to be timed. UnprovedError where it is not right."""


Build = Callable[[Bench], Provable]
Measure = Callable[[Bench, Any], Measured]  # of what Build's result lends


@dataclass(frozen=True, slots=True)
class Case:
    """A row of a benchmark. sizes, variant: as in `results.Result`.

    dispatch: the path that it is evaluated on; any but the queue is the ANE's alone.
    ends_sweep: whether larger ones of the same variant are not tried once this fails.
    """

    name: str
    variant: str
    sizes: Mapping[str, int]
    build: Build
    measure: Measure
    dispatch: str = QUEUE
    ends_sweep: bool = False

    @property
    def label(self) -> str:
        """What it is called; another for each case of a benchmark."""
        return f"{self.name}, {self.variant}"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A name on the command line.

    fits: what the results of its cases say together. alone: whether each case is to have a process
    of its own; else one goes on until a case is not ok.
    """

    name: str
    cases: Callable[[Settings], Sequence[Case]]
    fits: Callable[[Sequence[Result]], list[Fit]] = lambda _: []
    alone: bool = False


def try_case(benchmark: str, case: Case, bench: Bench) -> Result:
    """What came of a case. What the engine refuses is a result, while it is timed too.

    Whatever else is raised ends the process.
    """
    try:
        with case.build(bench).prove(bench.context) as trial:
            measured = case.measure(bench, trial)
    except UnprovedError as error:
        return describe(benchmark, case, error.status, str(error))
    except AneTrainError as error:
        return describe(benchmark, case, meaning(error), f"while it was timed: {scrub(str(error))}")
    return Result(
        benchmark,
        case.name,
        case.variant,
        case.sizes,
        OK,
        measured.text,
        trial.proof,
        measured.series,
        {**trial.values, **measured.values},
    )


def describe(benchmark: str, case: Case, status: str, text: str) -> Result:
    """The result of a case that was not timed."""
    return Result(benchmark, case.name, case.variant, case.sizes, status, text)
