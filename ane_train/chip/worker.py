"""The process in which one case runs."""

from __future__ import annotations

from ane_train.chip.case import QUEUE, Bench, Case, describe, try_case
from ane_train.chip.results import SKIPPED
from ane_train.chip.settings import Job, Settings
from ane_train.chip.table import BENCHMARKS
from ane_train.doctor.serve import Answers, serve
from ane_train.engine.device import HARDWARE
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.native.engine import Context
from ane_train.native.library import NativeError

RESULT = "result"
SWEEP = "sweep"  # the job without a case: opening the driver removes what dead processes left
_NO_PATH = "only the ANE has paths of dispatch"


def main() -> None:
    """Does the job that is on the first line of stdin; ends when stdin does."""
    serve(Job, work)


def work(job: Job) -> Answers:
    """The result of the job's case."""
    if job.benchmark == SWEEP:
        open_context(job.settings, job.hardware).close()
        return
    case = find_case(job)
    if case.dispatch != QUEUE and not job.hardware:
        yield RESULT, describe(job.benchmark, case, SKIPPED, _NO_PATH)
        return
    chip = built_in_chip(this_machine().chip) if job.hardware else None
    try:
        context = open_context(job.settings, job.hardware, case.dispatch)
    except NativeError as error:
        yield RESULT, describe(job.benchmark, case, SKIPPED, str(error))
        return
    with context:
        yield RESULT, try_case(job.benchmark, case, Bench(context, chip, job.settings))


def find_case(job: Job) -> Case:
    """The case that the job names."""
    cases = BENCHMARKS[job.benchmark].cases(job.settings)
    return next(case for case in cases if f"{case.name} {case.variant}" == job.name)


def open_context(settings: Settings, hardware: bool, dispatch: str = QUEUE) -> Context:
    """The engine to measure. NativeError."""
    if not hardware:
        return Context(threads=settings.threads)
    driver = settings.driver or "auto"
    return Context(threads=settings.threads, engine=HARDWARE, driver=driver, dispatch=dispatch)
