"""Makes the whole report: chooses the engine and runs every case in a process of its own.

A case that crashes or hangs is a result like any other, and ends nothing but itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from ane_train.chip.case import Case, describe
from ane_train.chip.results import (
    CRASHED,
    HUNG,
    KIND,
    OK,
    SCHEMA,
    SKIPPED,
    EngineFacts,
    Report,
    Result,
)
from ane_train.chip.settings import Job, Settings
from ane_train.chip.table import BENCHMARKS
from ane_train.chip.worker import RESULT, SWEEP
from ane_train.doctor import Settings as DoctorSettings
from ane_train.doctor import examine
from ane_train.doctor.isolate import DiedError, findings
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.errors import EngineError
from ane_train.records import from_json

Progress = Callable[[int, int, str], object]  # done, of how many, what comes next
MODULE = "ane_train.chip"
DIED = (CRASHED, HUNG)


def measure(
    settings: Settings, names: Sequence[str], progress: Progress = lambda *_: None
) -> Report:
    """The report on these benchmarks. EngineError if the ANE is asked for and cannot be used."""
    looked = examine(
        DoctorSettings(
            settings.engine,
            threads=settings.threads,
            driver=settings.driver,
            profiles=settings.profiles,
            quick=True,
        )
    )
    choice = looked.choice
    if settings.engine == "ane" and choice.engine != "ane":
        raise EngineError(f"the ANE cannot be used: {choice.reason}")
    hardware = choice.engine == "ane"
    results = tuple(_results(settings, names, hardware, progress))
    chip = built_in_chip(this_machine().chip).name if hardware else ""
    fits = (
        fit
        for name in names
        for fit in BENCHMARKS[name].fits([row for row in results if row.benchmark == name])
    )
    engine = EngineFacts(choice.asked, choice.engine, choice.reason, chip)
    return Report(KIND, SCHEMA, looked.machine, engine, settings.quick, results, tuple(fits))


def _results(
    settings: Settings, names: Sequence[str], hardware: bool, progress: Progress
) -> Iterator[Result]:
    cases = [(name, case) for name in names for case in BENCHMARKS[name].cases(settings)]
    ended: dict[tuple[str, str], str] = {}
    for done, (benchmark, case) in enumerate(cases):
        progress(done, len(cases), f"{benchmark}: {case.name} {case.variant}")
        sweep = (benchmark, case.variant)
        if sweep in ended:
            text = f"not tried after {ended[sweep]} failed"
            yield describe(benchmark, case, SKIPPED, text)
            continue
        result = run_case(benchmark, case, settings, hardware)
        if case.ends_sweep and result.status != OK:
            ended[sweep] = case.name
        yield result
    progress(len(cases), len(cases), "")


def run_case(benchmark: str, case: Case, settings: Settings, hardware: bool) -> Result:
    """One case in a process of its own, of which nothing is left, however it ends."""
    job = Job(benchmark, f"{case.name} {case.variant}", settings, hardware)
    try:
        for word, value in findings(job, settings.timeout, MODULE):
            if word == RESULT:
                return from_json(Result, value)
    except DiedError as error:
        if hardware:
            _sweep(settings)
        return describe(benchmark, case, HUNG if error.hung else CRASHED, str(error))
    return describe(benchmark, case, CRASHED, "the process gave no answer")


def _sweep(settings: Settings) -> None:
    """Has the driver remove what the dead process left."""
    with contextlib.suppress(DiedError):
        for _ in findings(Job(SWEEP, "", settings, hardware=True), settings.timeout, MODULE):
            pass
