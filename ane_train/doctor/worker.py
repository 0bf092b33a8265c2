"""The process in which driver and cases run, one job at a time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from ane_train.doctor.cases import program_cases
from ane_train.doctor.decode import try_classifier
from ane_train.doctor.report import (
    ABSENT,
    CONFIRMED,
    DISPATCH,
    HAZARD,
    OK,
    REFUSED,
    SKIPPED,
    Choice,
    Found,
)
from ane_train.doctor.run import Bench, try_case
from ane_train.doctor.settings import (
    CASES,
    CHOOSE,
    CLASSIFY,
    DELTA,
    LOOK,
    PATH,
    Job,
    Settings,
    Subject,
)
from ane_train.engine.delta import check_delta
from ane_train.engine.device import HARDWARE, look
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.engine.quick import open_hardware
from ane_train.isolation.scrub import scrub, scrub_record
from ane_train.isolation.serve import Answers, serve
from ane_train.native.engine import Context
from ane_train.native.library import NativeError

DELTA_QUESTION = "Does a compiled program fail to take new weights (--delta)?"
DEVICE, CHOICE, BEGIN, FOUND, FULL = "device", "choice", "begin", "found", "full"


def main() -> None:
    """Does the job that is on the first line of stdin; ends when stdin does."""
    serve(Job, lambda job: WORK[job.work](job))


def _look(job: Job) -> Answers:
    """What the driver says before it is opened and, if it finds nothing wrong, whether it opens."""
    device = look(job.settings.driver)
    yield DEVICE, scrub_record(device)
    if not device.problem:
        yield DEVICE, scrub_record(replace(device, problem=_opening_problem(job.settings)))


def _opening_problem(settings: Settings) -> str:
    try:
        _hardware(settings).close()
    except NativeError as error:
        return str(error)
    return ""


def _hardware(settings: Settings, dispatch: str = "queue") -> Context:
    driver = settings.driver or "auto"
    return Context(threads=settings.threads, engine=HARDWARE, driver=driver, dispatch=dispatch)


def _choose(job: Job) -> Answers:
    """The engine that a run would take, after a check that is made anew."""
    opened = open_hardware(job.settings.options, fresh=True)
    engine = "cpu" if opened.context is None else "ane"
    if opened.context is not None:
        opened.context.close()
    yield CHOICE, Choice(job.settings.engine, engine, scrub(opened.reason))


def open_bench(stack: ExitStack, settings: Settings, hardware: bool, dispatch: str) -> Bench:
    """The engine to try, and what it is compared with; closed with the stack. NativeError."""
    software = stack.enter_context(Context(threads=settings.threads))
    if not hardware:
        return Bench(software)
    return Bench(stack.enter_context(_hardware(settings, dispatch)), software)


def _cases(job: Job) -> Answers:
    guard = built_in_chip(this_machine().chip).compile_guard
    cases = Subject(job.settings).cases
    with ExitStack() as stack:
        bench = open_bench(stack, job.settings, job.hardware, job.dispatch)
        for index in range(job.first, len(cases)):
            if job.hardware and bench.context.counts().compiled >= guard:
                yield FULL, index
                return
            yield BEGIN, index
            yield FOUND, try_case(cases[index], bench)


def _classify(job: Job) -> Answers:
    """The classifier of `generate`, in each of the ways in which its weights are stored."""
    with Context(threads=job.settings.threads) as context:
        for int8 in (False, True):
            yield FOUND, try_classifier(context, Subject(job.settings).spec, int8=int8)


def _path(job: Job) -> Answers:
    """The model's programs on one path of dispatch, as one finding."""
    with ExitStack() as stack:
        bench = open_bench(stack, job.settings, True, job.dispatch)
        cases = program_cases(Subject(job.settings).programs)
        found = [try_case(case, bench) for case in cases]
    yield FOUND, path_found(job.dispatch, found)


def _delta(job: Job) -> Answers:
    """Whether a compiled program takes new weights, as a question like those of the hazards."""
    with ExitStack() as stack:
        bench = open_bench(stack, job.settings, job.hardware, job.dispatch)
        problem = check_delta(bench.context)
    yield FOUND, delta_found(problem)


def delta_found(problem: str) -> Found:
    """The answer, from what was wrong if anything was."""
    text = f"yes: {scrub(problem)}" if problem else "no"
    verdict = CONFIRMED if problem else ABSENT
    return Found("delta", HAZARD, verdict, question=DELTA_QUESTION, text=text)


def path_found(dispatch: str, found: list[Found]) -> Found:
    """What the findings on one path say of it: the first that is not right, or the time of all.

    Programs that the compiler refuses say nothing about a path.
    """
    found = [case for case in found if case.verdict != REFUSED]
    first = next((case for case in found if case.verdict != OK), None)
    if not found:
        return Found(dispatch, DISPATCH, SKIPPED, text="no program is accepted")
    if first is not None:
        text = f"{first.name}: {first.text}"
        return Found(dispatch, DISPATCH, first.verdict, text=text)
    total = sum(case.evaluate_ms or 0.0 for case in found)
    return replace(Found(dispatch, DISPATCH, OK), evaluate_ms=total)


WORK = {
    LOOK: _look,
    CHOOSE: _choose,
    CASES: _cases,
    CLASSIFY: _classify,
    PATH: _path,
    DELTA: _delta,
}
