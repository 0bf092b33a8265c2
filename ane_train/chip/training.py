"""`train`: a micro-batch and its update, by program and by kind of work, beside the plan's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from ane_train.chip.case import Bench, Case, Measured
from ane_train.chip.planned import Planned, planned
from ane_train.chip.proof import Experiment, Trial, UnprovedError, experiment, require_memory
from ane_train.chip.results import WRONG, Proof, Series, series
from ane_train.chip.settings import Settings
from ane_train.chip.timing import Effort, time_calls
from ane_train.doctor import reference
from ane_train.doctor.cases import WHOLE_PROGRAM, program_cases
from ane_train.doctor.run import memory_needed
from ane_train.engine import Budget, Engine
from ane_train.model.layer import layer_shape
from ane_train.model.memory import available, estimate
from ane_train.model.spec import ModelSpec, load_model
from ane_train.native.engine import Context
from ane_train.plan.ours import flops
from ane_train.programs import LayerProgram, layer_programs
from ane_train.train.step import AdamW, TrainingStep
from ane_train.train.timings import KINDS

USUAL, BRIEF = "stories110m", "tiny"
SEED = 12
SCALE, RATE = 256.0, 1e-5  # of the loss, and of learning
CHANGE = 0.02  # of the loss, in nats, along the gradient
TOLERANCE = 0.05  # of that change: the loss is no straight line, and fp16 weights are steps
BATCH, UPDATE = "micro-batch", "update"
Kinds = Mapping[str, float]


def cases(settings: Settings) -> list[Case]:
    """The programs of a layer, then a whole step."""
    spec = load_model(settings.model or (BRIEF if settings.quick else USUAL))
    foreseen = planned(spec, settings.chip)
    programs = layer_programs(layer_shape(spec, spec.sequence))
    return [
        *(_program_case(spec, program, foreseen) for program in programs),
        _step_case(spec, foreseen),
    ]


def _program_case(spec: ModelSpec, layout: LayerProgram, foreseen: Planned | None) -> Case:
    (made,) = program_cases([layout])

    def build(_: Bench) -> Experiment:
        require_memory(memory_needed(made.program), available())
        inputs = made.inputs(SEED)

        def model() -> list[np.ndarray]:
            outputs = reference.evaluate(made.program, inputs)
            return [output.reshape(-1, output.shape[-1]) for output in outputs]

        whole = experiment(made.program, inputs, model, WHOLE_PROGRAM)
        return replace(whole, blocks=layout.output)

    def measure(bench: Bench, trial: Trial) -> Measured:
        predicted = foreseen.evaluation_ms(layout.name) if foreseen else None
        timings = series("evaluate", time_calls(trial.evaluate, bench.effort), predicted)
        work = flops(layout.program)
        moved = sum(port.type.bytes for port in (*made.program.inputs, *made.program.outputs))
        values = {
            "gflop": work / 1e9,
            "bytes": float(moved),
            "tflops": work / (1e9 * timings.median),
            "evaluations": float(spec.layers),
        }
        return Measured((timings,), values, f"evaluated {spec.layers} times in a micro-batch")

    sizes = {"layers": spec.layers, "sequence": spec.sequence}
    return Case(layout.name, spec.name, sizes, build, measure)


def _step_case(spec: ModelSpec, foreseen: Planned | None) -> Case:
    def build(_: Bench) -> Step:
        shape = layer_shape(spec, spec.sequence)
        require_memory(2 * estimate(spec, shape).total, available())
        return Step(spec)

    def measure(bench: Bench, trained: Trained) -> Measured:
        batches, updates = _time_steps(trained, bench.effort)
        found = [
            *_by_kind(BATCH, batches, foreseen.micro_batch_ms if foreseen else {}),
            *_by_kind(UPDATE, updates, foreseen.update_ms if foreseen else {}),
        ]
        beside = "overlapped: on the gradient thread, while the engine is at work"
        said = (trained.said, beside if trained.step.engine.frees_processors else "")
        return Measured(tuple(found), text="; ".join(filter(None, said)))

    sizes = {"layers": spec.layers, "sequence": spec.sequence}
    return Case("step", spec.name, sizes, build, measure)


def _time_steps(trained: Trained, effort: Effort) -> tuple[list[Kinds], list[Kinds]]:
    """Milliseconds by kind, and of all as "", of micro-batches and of updates."""
    batches: list[Kinds] = []
    updates: list[Kinds] = []
    trained.micro_batch()
    trained.update(1)
    begin = time.perf_counter()
    while len(batches) < effort.fewest or (
        time.perf_counter() - begin < effort.seconds and len(batches) < effort.most
    ):
        batches.append(trained.timed(trained.micro_batch))
        updates.append(trained.timed(lambda: trained.update(2 + len(updates))))
    return batches, updates


def _by_kind(what: str, found: Sequence[Kinds], predicted: Kinds) -> Iterator[Series]:
    """The whole, and each kind of work that took time."""
    for kind in ("", *KINDS, "overlapped"):
        samples = [kinds.get(kind, 0.0) for kinds in found]
        if any(samples):
            name = f"{what}, {kind}" if kind else what
            yield series(name, samples, predicted.get(kind))


@dataclass(frozen=True, slots=True)
class Trained:
    """A step that was proved right, with a batch for it."""

    step: TrainingStep
    inputs: np.ndarray
    targets: np.ndarray
    proof: Proof
    said: str
    values: Mapping[str, float] = field(default_factory=dict)

    def micro_batch(self) -> None:
        """Forward and backward of one sequence."""
        self.step.micro_batch(self.inputs, self.targets, SCALE)

    def update(self, number: int) -> None:
        """AdamW, and the weights into the programs."""
        self.step.update(AdamW(), RATE, number, 1 / SCALE)

    def timed(self, call: Callable[[], None]) -> Kinds:
        """Milliseconds of the call by kind of work, and of all as ""."""
        self.step.timings.take()
        start = time.perf_counter()
        call()
        whole = time.perf_counter() - start
        kinds = {"": whole, **self.step.timings.take()}
        return {kind: 1e3 * seconds for kind, seconds in kinds.items()}


@dataclass(frozen=True, slots=True)
class Step:
    """The training step of a model with fresh weights, on random tokens."""

    spec: ModelSpec

    @contextmanager
    def prove(self, context: Context) -> Iterator[Trained]:
        """Lends the step if its gradient is that of its loss; else UnprovedError."""
        engine = _engine(context)
        with ExitStack() as stack:
            step = TrainingStep(self.spec, engine, self.spec.sequence)
            stack.callback(step.close)
            step.initialize(SEED)
            random = np.random.default_rng(SEED)
            tokens = random.integers(0, self.spec.vocabulary, (2, 1, self.spec.sequence), np.int32)
            inputs, targets = tokens
            proof = Proof("differences of its loss", _gradient_error(step, *tokens), TOLERANCE)
            if not proof.error <= TOLERANCE:
                text = f"not timed: the gradient is {proof.error:.1%} off the slope of the loss"
                raise UnprovedError(WRONG, text)
            yield Trained(step, inputs, targets, proof, _in_software(engine))


def _engine(context: Context) -> Engine:
    name = "cpu" if context.options.engine == "software" else "ane"
    return Engine(name, "measured", "fp16", None, context, Budget(context))


def _in_software(engine: Engine) -> str:
    names = [fallback.name for fallback in engine.fallbacks.values()]
    return f"in software: {', '.join(names)}" if names else ""


def _gradient_error(step: TrainingStep, inputs: np.ndarray, targets: np.ndarray) -> float:
    """How far the loss changes along the gradient from what the gradient says, as a share."""
    step.micro_batch(inputs, targets, SCALE)
    gradient = step.gradients.flat / np.float32(SCALE)
    step.gradients.flat.fill(0)
    weights = step.weights.flat.copy()
    squares = float(gradient.astype(np.float64) @ gradient.astype(np.float64))
    reach = np.float32(CHANGE / squares)
    losses = []
    for sign in (1, -1):
        step.weights.flat[:] = weights + sign * reach * gradient
        step.refresh()
        losses.append(step.evaluate(inputs, targets))
    step.weights.flat[:] = weights
    step.refresh()
    return abs((losses[0] - losses[1]) / (2 * CHANGE) - 1)
