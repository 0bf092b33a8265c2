"""Makes the whole report: chooses the engine and runs every case, in processes of their own.

A case that crashes or hangs is a result like any other, and ends nothing but itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ane_train.chip.case import Case, describe
from ane_train.chip.planned import machine_name
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
from ane_train.engine.machine import built_in_chip, this_machine
from ane_train.errors import EngineError
from ane_train.isolation.isolate import DiedError, findings
from ane_train.records import from_json

Progress = Callable[[int, int, str], object]  # done, of how many, what comes next
MODULE = "ane_train.chip"


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
    if hardware and not settings.chip:
        settings = replace(settings, chip=machine_name(looked.machine.chip))
    results = tuple(_results(settings, names, hardware, progress))
    chip = built_in_chip(this_machine().chip).name if hardware else ""
    fits = (
        fit
        for name in names
        for fit in BENCHMARKS[name].fits([row for row in results if row.benchmark == name])
    )
    engine = EngineFacts(choice.asked, choice.engine, choice.reason, chip, settings.chip)
    return Report(KIND, SCHEMA, looked.machine, engine, settings.quick, results, tuple(fits))


def _results(
    settings: Settings, names: Sequence[str], hardware: bool, progress: Progress
) -> Iterator[Result]:
    """Of every case, in the order of the table."""
    rows = [(name, case) for name in names for case in BENCHMARKS[name].cases(settings)]
    ended: dict[tuple[str, str], str] = {}
    done = 0
    while done < len(rows):
        name, case = rows[done]
        if (name, case.variant) in ended:
            text = f"not tried after {ended[name, case.variant]} failed"
            done += 1
            yield describe(name, case, SKIPPED, text)
            continue
        progress(done, len(rows), f"{name}: {case.label}")
        for result in run_cases(name, _together(rows[done:]), settings, hardware):
            if rows[done][1].ends_sweep and result.status != OK:
                ended[name, result.variant] = result.name
            done += 1
            progress(done, len(rows), f"{name}: {rows[done][1].label}" if done < len(rows) else "")
            yield result


def _together(rows: Sequence[tuple[str, Case]]) -> list[Case]:
    """The cases that share the next process: those of the first one's benchmark, or it alone."""
    first = rows[0][0]
    if BENCHMARKS[first].alone:
        return [rows[0][1]]
    return [case for name, case in rows if name == first]


def run_cases(
    benchmark: str, cases: Sequence[Case], settings: Settings, hardware: bool
) -> Iterator[Result]:
    """Results of the first cases, one at least, by a process of which nothing is left."""
    job = Job(benchmark, tuple(case.label for case in cases), settings, hardware)
    count = 0
    try:
        for word, value in findings(MODULE, job, settings.timeout):
            if word == RESULT:
                count += 1
                yield from_json(Result, value)
    except DiedError as error:
        if hardware:
            _sweep(settings)
        if count < len(cases):
            yield describe(benchmark, cases[count], HUNG if error.hung else CRASHED, str(error))
        return
    if not count:
        yield describe(benchmark, cases[0], CRASHED, "the process gave no answer")


def _sweep(settings: Settings) -> None:
    """Has the driver remove what the dead process left."""
    with contextlib.suppress(DiedError):
        for _ in findings(MODULE, Job(SWEEP, (), settings, hardware=True), settings.timeout):
            pass
