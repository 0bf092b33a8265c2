"""Makes the whole report: looks at the driver, chooses an engine, tries every case.

All that touches the driver happens in processes of their own; this one only writes down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ane_train.doctor import facts, worker
from ane_train.doctor.decode import CLASSIFIER
from ane_train.doctor.report import (
    ABSENT,
    CONFIRMED,
    DECODE,
    DISPATCH,
    FAILED,
    PROGRAM,
    SCHEMA,
    SKIPPED,
    STATIC,
    Choice,
    Found,
    Report,
)
from ane_train.doctor.run import crashed
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
from ane_train.engine.device import Device
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.engine.profile import Measured, Profile, new_profile
from ane_train.engine.quick import HOLDS
from ane_train.isolation.isolate import DiedError, findings
from ane_train.mil import Hazard
from ane_train.native.engine import DISPATCHES
from ane_train.records import from_json

Progress = Callable[[int, int, str], object]  # done, of how many, what comes next
QUEUE, CLEARLY = "queue", 0.95  # what published training uses; noise is to choose no other path
MODULE = "ane_train.doctor"  # whose worker does the jobs
NUMPY, SOFTWARE = "NumPy", "the software engine"


@dataclass(frozen=True, slots=True)
class _Found:
    """Findings of all cases and of the paths of dispatch."""

    cases: tuple[Found, ...] = ()
    dispatch: str = ""
    dispatch_ms: Mapping[str, float] | None = None


def examine(settings: Settings, progress: Progress = lambda *_: None) -> Report:
    """The report. ModelError for a model that cannot be read; nothing that a case does ends it."""
    subject = Subject(settings)
    device = _look(settings)
    choice = _choose(settings, device)
    hardware = settings.engine != "cpu" and not device.problem
    found = _Found()
    if not settings.quick:
        cases = _try_all(settings, subject, hardware, progress)
        others = (*_classifier(settings), _delta(settings, hardware))
        found = _with_paths((*cases, *others), settings, hardware)
    return Report(
        schema=SCHEMA,
        machine=facts.gather(settings.threads),
        choice=choice,
        device=device,
        model=subject.spec.name,
        sequence=subject.sequence,
        compared_with=SOFTWARE if hardware else NUMPY,
        cases=found.cases,
        dispatch=found.dispatch,
        dispatch_ms=found.dispatch_ms or {},
        batch=settings.batch,
    )


def profile_of(report: Report) -> Profile:
    """What later runs on this machine should know; only of a report that tried the ANE."""
    cases = report.cases
    usual = built_in_chip(this_machine().chip).hazards
    hazards = [case.hazard for case in cases if case.hazard and _is_there(case, usual)]
    rules = {case.rule for case in cases if case.rule}
    refuted = rules - {case.rule for case in cases if case.rule and case.verdict != ABSENT}
    refused = {
        case.digest: f"{case.verdict}: {case.text}"
        for case in cases
        if case.group in (PROGRAM, STATIC, DECODE) and case.digest and not case.holds
    }
    measured = Measured(
        tuple(hazards),
        tuple(sorted(refuted)),
        refused,
        report.dispatch or QUEUE,
        report.dispatch_ms,
    )
    holds = HOLDS if report.choice.engine == "ane" else ""
    return replace(new_profile(), quick=holds, measured=measured)


def _is_there(case: Found, usual: Hazard) -> bool:
    """Whether the case's hazard is; where that could not be asked, what is usual for the chip."""
    if case.verdict == SKIPPED:
        return Hazard[case.hazard] in usual
    return case.verdict == CONFIRMED


def _look(settings: Settings) -> Device:
    """The driver's own words, as far as they came: the process may end when it opens the ANE."""
    device = Device(False, "looking for the ANE gave no answer")
    try:
        for word, value in findings(MODULE, Job(LOOK, settings)):
            if word == worker.DEVICE:
                device = from_json(Device, value)
    except DiedError as error:
        what = "opening" if device.present else "looking for"
        return replace(device, problem=f"{what} the ANE failed: {error}")
    return device


def _choose(settings: Settings, device: Device) -> Choice:
    if settings.engine == "cpu":
        return Choice("cpu", "cpu", "asked for")
    if device.problem:
        return Choice(settings.engine, "cpu", device.problem)
    try:
        for word, value in findings(MODULE, Job(CHOOSE, settings)):
            if word == worker.CHOICE:
                return from_json(Choice, value)
    except DiedError as error:
        return Choice(settings.engine, "cpu", f"the check of the ANE failed: {error}")
    return Choice(settings.engine, "cpu", "the check of the ANE gave no answer")


def _try_all(
    settings: Settings, subject: Subject, hardware: bool, progress: Progress
) -> Iterator[Found]:
    """Every case once; a new process goes on where one died or may compile no more.

    Where one died before its first case, the next would: none of the rest is tried.
    """
    cases, place = subject.cases, 0
    while place < len(cases):
        job = Job(CASES, settings, hardware, place)
        begun = None
        try:
            for word, value in findings(MODULE, job):
                if word == worker.BEGIN:
                    begun = int(value)
                    progress(begun, len(cases), cases[begun].name)
                elif word == worker.FOUND:
                    place += 1
                    yield from_json(Found, value)
        except DiedError as error:
            gone = cases[place:] if begun is None else cases[begun : begun + 1]
            yield from (crashed(case, str(error)) for case in gone)
            place = len(cases) if begun is None else begun + 1
    progress(len(cases), len(cases), "")


def _classifier(settings: Settings) -> Iterator[Found]:
    try:
        for word, value in findings(MODULE, Job(CLASSIFY, settings)):
            if word == worker.FOUND:
                yield from_json(Found, value)
    except DiedError as error:
        yield Found(CLASSIFIER, DECODE, FAILED, text=str(error))


def _delta(settings: Settings, hardware: bool) -> Found:
    try:
        for word, value in findings(MODULE, Job(DELTA, settings, hardware)):
            if word == worker.FOUND:
                return from_json(Found, value)
    except DiedError as error:
        return worker.delta_found(str(error))
    return worker.delta_found("no answer")


def _with_paths(cases: tuple[Found, ...], settings: Settings, hardware: bool) -> _Found:
    """The cases and one finding per path of dispatch; of those that are right one is chosen."""
    if not hardware:
        skipped = (
            Found(name, DISPATCH, SKIPPED, text="only the ANE has paths of dispatch")
            for name in DISPATCHES
        )
        return _Found((*cases, *skipped))
    paths = [_path(settings, name) for name in DISPATCHES]
    times = {path.name: path.evaluate_ms for path in paths if path.evaluate_ms is not None}
    return _Found((*cases, *paths), fastest(times), times)


def fastest(times: Mapping[str, float]) -> str:
    """The path to use, by the milliseconds of each: the queue unless another is clearly faster."""
    weighed = {name: ms * (CLEARLY if name == QUEUE else 1) for name, ms in times.items()}
    return min(weighed, key=weighed.__getitem__, default=QUEUE)


def _path(settings: Settings, name: str) -> Found:
    try:
        for word, value in findings(MODULE, Job(PATH, settings, True, dispatch=name)):
            if word == worker.FOUND:
                return from_json(Found, value)
    except DiedError as error:
        return Found(name, DISPATCH, FAILED, text=str(error))
    return Found(name, DISPATCH, FAILED, text="no answer")
