"""`latency`: what calls cost that compute next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar

from ane_train.chip.case import QUEUE, Bench, Case, Measured
from ane_train.chip.chains import chain_program, draw_chain, repeated
from ane_train.chip.proof import ULP, Experiment, Trial, experiment
from ane_train.chip.results import series
from ane_train.chip.settings import Settings
from ane_train.chip.surfaces import SMALLEST, plus_one
from ane_train.chip.timing import time_calls
from ane_train.native.engine import DISPATCHES, Context

CHANNELS, WIDTH = 256, 64  # of the convolution that published compile times are of
IO_SIZE, BRIEF_IO_SIZE = (512, 2048), (64, 512)  # channels and width
COMPILES, BRIEF_COMPILES = 10, 5  # three each, and a process may compile about 100
PORTS = ("fp16", "fp32")
Made = TypeVar("Made")


def cases(settings: Settings) -> list[Case]:
    """The dispatch floor on each path, requests, compiling and loading, locks, ports."""
    channels, width = BRIEF_IO_SIZE if settings.quick else IO_SIZE
    small = {"channels": SMALLEST, "width": SMALLEST}
    conv = {"channels": CHANNELS, "width": WIDTH}
    return [
        *(
            Case("dispatch floor", path, small, _smallest, _evaluate, dispatch=path)
            for path in DISPATCHES
        ),
        Case("request", QUEUE, small, _smallest, _requests),
        Case("compile", "conv", conv, lambda _: _conv(0), _compiles),
        Case("surface lock", QUEUE, small, _smallest, _locks),
        *(_port_case(channels, width, dtype) for dtype in PORTS),
    ]


def _smallest(_: Bench) -> Experiment:
    return plus_one(SMALLEST, SMALLEST)


def _evaluate(bench: Bench, trial: Trial) -> Measured:
    return Measured((series("evaluate", time_calls(trial.evaluate, bench.effort)),))


def _requests(bench: Bench, trial: Trial) -> Measured:
    def with_new_request() -> None:
        request = trial.program.request(trial.sources, trial.targets)
        request.evaluate()
        request.close()

    return Measured(
        (
            series("same request", time_calls(trial.evaluate, bench.effort)),
            series("new request", time_calls(with_new_request, bench.effort)),
        )
    )


def _conv(seed: int) -> Experiment:
    """A 1x1 convolution; other weights for each seed, so that no cache knows the program."""
    chain = draw_chain(1, CHANNELS, seed)
    program = chain_program(chain.matrices, (1, CHANNELS, 1, WIDTH))
    inputs = [repeated(chain.columns, WIDTH)]
    return experiment(program, inputs, lambda: [repeated(chain.fp16_outputs(), WIDTH)], 2 * ULP)


def _compiles(bench: Bench, trial: Trial) -> Measured:
    """Each program is timed, compiled once more since it is known now, and proved."""
    times: dict[str, list[float]] = {}
    for seed in range(1, 1 + (BRIEF_COMPILES if bench.settings.quick else COMPILES)):
        made = _conv(seed)
        for name, spent in _stages(trial.context, made):
            times.setdefault(name, []).append(spent)
        with made.prove(trial.context):
            pass
    return Measured(tuple(series(name, spent) for name, spent in times.items()))


def _stages(context: Context, made: Experiment) -> Iterator[tuple[str, float]]:
    """Milliseconds of compiling, loading, unloading, and compiling again."""
    with ExitStack() as stack:
        spent, program = _timed(lambda: context.compile(made.text, made.files, load=False))
        stack.callback(program.close)
        yield "compile, cold", spent
        yield "load", _timed(program.load)[0]
        yield "unload", _timed(program.unload)[0]
    spent, program = _timed(lambda: context.compile(made.text, made.files, load=False))
    program.close()
    yield "compile, warm", spent


def _timed(call: Callable[[], Made]) -> tuple[float, Made]:
    start = time.perf_counter()
    made = call()
    return 1e3 * (time.perf_counter() - start), made


def _locks(bench: Bench, trial: Trial) -> Measured:
    def lock(read_only: bool) -> Callable[[], None]:
        def call() -> None:
            with trial.sources[0].locked(read_only):
                pass

        return call

    return Measured(  # and unlock
        (
            series("lock to read", time_calls(lock(True), bench.effort)),
            series("lock to write", time_calls(lock(False), bench.effort)),
        )
    )


def _port_case(channels: int, width: int, dtype: str) -> Case:
    """Input and output in fp16, or in fp32 with casts inside the program."""

    def measure(bench: Bench, trial: Trial) -> Measured:
        (source,), (target,) = trial.sources, trial.targets
        values = source.read()

        def all_three() -> None:
            source.write(values)
            trial.evaluate()
            target.read(out=values)

        return Measured(
            (
                series("write", time_calls(lambda: source.write(values), bench.effort)),
                series("evaluate", time_calls(trial.evaluate, bench.effort)),
                series("read", time_calls(lambda: target.read(out=values), bench.effort)),
                series("write, evaluate, read", time_calls(all_three, bench.effort)),
            )
        )

    def build(_: Bench) -> Experiment:
        return plus_one(channels, width, dtype)

    sizes = {"channels": channels, "width": width}
    return Case("input and output", dtype, sizes, build, measure)
