"""The process in which cases run, one after another until one is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator

from ane_train.chip.case import QUEUE, Bench, Case, describe, try_case
from ane_train.chip.results import OK, SKIPPED, Result
from ane_train.chip.settings import Job, Settings
from ane_train.chip.table import BENCHMARKS
from ane_train.engine.device import HARDWARE
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.isolation.serve import Answers, serve
from ane_train.mil import Chip
from ane_train.native.engine import Context
from ane_train.native.library import NativeError

RESULT = "result"
SWEEP = "sweep"  # the job without cases: opening the driver removes what dead processes left
_NO_PATH = "only the ANE has paths of dispatch"


def main() -> None:
    """Does the job that is on the first line of stdin; ends when stdin does."""
    serve(Job, work)


def work(job: Job) -> Answers:
    """The results of the job's cases, up to the first that failed: the rest is for a new process.

    So it is where this one has compiled about as much as a process may.
    """
    if job.benchmark == SWEEP:
        open_context(job.settings, job.hardware).close()
        return
    chip = built_in_chip(this_machine().chip) if job.hardware else None
    compiled = 0
    for case in find_cases(job):
        if chip is not None and compiled > chip.compile_guard // 2:
            return
        result, count = _try(job, case, chip)
        compiled += count
        yield RESULT, result
        if result.status not in (OK, SKIPPED):
            return


def find_cases(job: Job) -> Iterator[Case]:
    """The cases that the job names, in its order."""
    known = {case.label: case for case in BENCHMARKS[job.benchmark].cases(job.settings)}
    return (known[label] for label in job.labels)


def _try(job: Job, case: Case, chip: Chip | None) -> tuple[Result, int]:
    """The result of one case, and how many programs it compiled."""
    if case.dispatch != QUEUE and chip is None:
        return describe(job.benchmark, case, SKIPPED, _NO_PATH), 0
    try:
        context = open_context(job.settings, job.hardware, case.dispatch)
    except NativeError as error:
        return describe(job.benchmark, case, SKIPPED, str(error)), 0
    with context:
        result = try_case(job.benchmark, case, Bench(context, chip, job.settings))
        return result, context.counts().compiled


def open_context(settings: Settings, hardware: bool, dispatch: str = QUEUE) -> Context:
    """The engine to measure. NativeError."""
    if not hardware:
        return Context(threads=settings.threads)
    driver = settings.driver or "auto"
    return Context(threads=settings.threads, engine=HARDWARE, driver=driver, dispatch=dispatch)
