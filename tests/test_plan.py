"""The plan is what is run, its arithmetic is right, and its constants are what was published."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ane_train.engine import EngineOptions, open_engine
from ane_train.model.spec import load_model
from ane_train.native.engine import Program, Request, Surface
from ane_train.plan.machines import get_machine
from ane_train.plan.measurements import PLANS
from ane_train.plan.ours import PlanOptions, step_plan
from ane_train.plan.predict import evaluation_seconds, predict
from ane_train.plan.work import StepPlan
from ane_train.train.pipeline import PipelineOptions
from ane_train.train.step import AdamW, TrainingStep

ARRANGEMENTS = [("dynamic", False), ("static", False), ("static", True)]


@dataclass
class Counted:
    """What a step did to the engine: evaluations by bytes in and out, and bytes staged."""

    evaluations: Counter[tuple[int, int]] = field(default_factory=Counter)
    staged: int = 0
    inputs: set[int] = field(default_factory=set)  # of programs, by identity


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts in the very calls by which programs are run and inputs are filled."""
    found = Counted()
    ports: dict[int, tuple[Request, int, int]] = {}
    write, copy = Surface.write, Surface.copy_from
    request, evaluate = Program.request, Request.evaluate

    def size(surface: Surface) -> int:
        return surface.channels * surface.width * surface.element_size

    def counting_request(self: Program, inputs: list[Surface], outputs: list[Surface]) -> Request:
        made = request(self, inputs, outputs)
        ports[id(made)] = (made, sum(map(size, inputs)), sum(map(size, outputs)))
        found.inputs.update(map(id, inputs))
        return made

    def counting_evaluate(self: Request) -> None:
        _, given, result = ports[id(self)]
        found.evaluations[given, result] += 1
        evaluate(self)

    def counting_write(self: Surface, source: np.ndarray, *place: Any, **others: Any) -> None:
        found.staged += source.size * self.element_size
        write(self, source, *place, **others)

    def counting_copy(self: Surface, row: int, column: int, source: Surface, *block: int) -> None:
        if id(self) in found.inputs:
            found.staged += block[2] * block[3] * self.element_size
        copy(self, row, column, source, *block)

    monkeypatch.setattr(Program, "request", counting_request)
    monkeypatch.setattr(Request, "evaluate", counting_evaluate)
    monkeypatch.setattr(Surface, "write", counting_write)
    monkeypatch.setattr(Surface, "copy_from", counting_copy)
    return found


def evaluations(plan: StepPlan) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for row in plan.rows:
        if row.evaluation:
            ports = (int(row.evaluation.bytes_in), int(row.evaluation.bytes_out))
            found[ports] += plan.times(row)
    return found


@pytest.mark.parametrize("model", ["tiny", "multi-head"])
@pytest.mark.parametrize(("pipeline", "extras"), ARRANGEMENTS)
def test_a_step_evaluates_stages_and_compiles_what_the_plan_says(
    counted: Counted, tmp_path: Path, model: str, pipeline: str, extras: bool
) -> None:
    if model != "tiny":
        path = tmp_path / "multi-head.toml"
        path.write_text(MULTI_HEAD)
        model = str(path)
    spec = load_model(model)
    engine = open_engine(EngineOptions("cpu", "fp16"))
    options = PipelineOptions(pipeline, extras, sequences=2)
    step = TrainingStep(spec, engine, spec.sequence, pipeline=options)
    step.initialize(seed=0)
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary, (2, spec.sequence + 1))
    inputs, targets = (tokens[:, part].astype(np.int32) for part in (slice(-1), slice(1, None)))
    step.micro_batch(inputs.copy(), targets.copy())
    compiled = engine.context.counts().compiled
    counted.evaluations.clear()
    counted.staged = 0
    for _ in range(3):
        step.micro_batch(inputs.copy(), targets.copy())
    update = step.update(AdamW(), 1e-3, 1, 1 / 3)
    staged, evaluated = counted.staged, counted.evaluations.copy()
    step.micro_batch(inputs.copy(), targets.copy())
    step.close()
    plan = step_plan(spec, spec.sequence, PlanOptions(pipeline, extras, 2, 3), "m4")
    assert update.bad is None
    assert plan.evaluations == sum(evaluated.values())
    assert evaluations(plan) == evaluated
    assert plan.staged == staged
    assert plan.compiles == engine.context.counts().compiled - compiled


MULTI_HEAD = """
layers = 3
dim = 96
heads = 3
kv_heads = 3
head_size = 32
ffn = 160
vocabulary = 512
sequence = 32
tied_embeddings = false
"""


TABLE = Path(__file__).parents[1] / "README.md"
COMPARED = {
    "ours, dynamic": PlanOptions(),
    "ours, static": PlanOptions("static"),
    "maderix/ANE, static": "static",
    "maderix/ANE, dynamic": {"stories110m": "dynamic-eight", "qwen3_06b": "dynamic-ten"},
}


def compared(model: str, name: str) -> StepPlan:
    spec, options = load_model(model), COMPARED[name]
    if isinstance(options, PlanOptions):
        return step_plan(spec, 256, options, "m4")
    return PLANS[options if isinstance(options, str) else options[model]](spec, 256)


def cells_of_a_layer(model: str, name: str) -> list[str]:
    """Those of the README's table."""
    plan, machine = compared(model, name), get_machine("m4")
    found = [row.evaluation for row in plan.rows if row.evaluation]
    sizes = [
        sum(getattr(each, field) for each in found) / 2**20
        for field in ("bytes_in", "bytes_out", "constants", "staged", "restaged")
    ]
    engine = sum(evaluation_seconds(each, machine) for each in found)
    return [str(len(found)), *(f"{size:.1f}" for size in sizes), f"{engine * 1e3:.2f}"]


def test_the_readme_compares_the_plans_as_they_are() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith(("| stories110m | ", "| qwen3_06b | "))
    ]
    rows = [row for row in rows if row[1] in COMPARED]
    assert len(rows) == 7
    for model, name, *cells in rows:
        assert cells == cells_of_a_layer(model, name), (model, name)


def test_our_programs_need_less_of_the_engine_than_the_published_ones() -> None:
    machine = get_machine("m4")
    for model, theirs in (("stories110m", "dynamic-eight"), ("qwen3_06b", "dynamic-ten")):
        ours = predict(step_plan(load_model(model), 256, PlanOptions(), "m4"), machine)
        published = predict(PLANS[theirs](load_model(model), 256), machine)
        assert ours.of("engine") < published.of("engine")


def test_flops_are_those_of_the_matrices_and_the_scores() -> None:
    """Per layer: 2 for each weight and token, twice; and seven products of [S, S] by [S, E]."""
    spec = load_model("stories110m")
    plan = step_plan(spec, 256, PlanOptions(), "m4")
    found = sum(row.evaluation.flops for row in plan.rows if row.evaluation)
    matrices = 4 * spec.dim**2 + 3 * spec.dim * spec.ffn
    scores = 2 * 256 * 256 * spec.heads * spec.head_size
    assert found == pytest.approx(2 * 2 * matrices * 256 + 7 * scores, rel=1e-3)
