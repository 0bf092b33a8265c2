"""What `doctor` is asked to do, and the jobs that it gives to processes of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ane_train.doctor.cases import Case, all_cases
from ane_train.doctor.decode import decode_cases
from ane_train.engine import EngineOptions
from ane_train.mil import most_channels
from ane_train.model.arena import Arena, Array, initialize
from ane_train.model.layer import layer_shape
from ane_train.model.parameters import parameters
from ane_train.model.spec import ModelSpec, load_model
from ane_train.programs import (
    Constants,
    LayerProgram,
    LayerShape,
    classifier,
    final_norm_backward,
    layer_programs,
    sequences_per_evaluation,
    softmax,
    split_vocabulary,
)

LOOK, CHOOSE, CASES, CLASSIFY = "look", "choose", "cases", "classify"
PATH, DELTA = "path", "delta"
_SEED = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """engine: "auto", "ane" or "cpu"; sequence: 0 for the model's own; profiles: a folder.

    quick: whether the engine is chosen and nothing else is tried. batch: sequences of a
    micro-batch, of which programs take as many side by side as any chip allows.
    """

    engine: str = "auto"
    model: str = "tiny"
    sequence: int = 0
    threads: int = 0
    driver: str | None = None
    profiles: str | None = None
    quick: bool = False
    batch: int = 1

    @property
    def options(self) -> EngineOptions:
        """How the engine is opened that a run would take."""
        folder = Path(self.profiles) if self.profiles else None
        return EngineOptions(self.engine, threads=self.threads, driver=self.driver, profiles=folder)


@dataclass(frozen=True, slots=True)
class Job:
    """One process's work.

    work: "look" at the driver, "choose" an engine, try "cases" from number `first` on, "classify"
    tokens, measure a "path" of dispatch, or test "delta" reload. hardware: whether cases run on
    the ANE.
    """

    work: str
    settings: Settings
    hardware: bool = False
    first: int = 0
    dispatch: str = "queue"


class Subject:
    """What settings name: the model, its programs and the cases; ModelError for a bad model."""

    def __init__(self, settings: Settings) -> None:
        self.spec: ModelSpec = load_model(settings.model)
        self.sequence = settings.sequence or self.spec.sequence
        self._batch = settings.batch

    @cached_property
    def programs(self) -> tuple[LayerProgram, ...]:
        """The programs that a run of the model would compile."""
        return layer_programs(self._shape(static=False))

    @cached_property
    def static(self) -> tuple[LayerProgram, ...]:
        """The same with fresh weights as constants, and those that --engine-extras adds."""
        values = self._weights()
        shape = self._shape(static=True)
        layer = layer_programs(shape, Constants(values))
        through_norm = layer_programs(shape, Constants(values, norm_backward=True))
        backward = [
            replace(layout, name=f"{layout.name} with norm")
            for layout in through_norm
            if layout.name.endswith("backward")
        ]
        return (*layer, *backward, *self._head(values, shape))

    def _weights(self) -> Mapping[str, Array]:
        """Those of one layer and of the head, with the rows of one part of the vocabulary.

        One part is all of it where the chip takes that.
        """
        part = split_vocabulary(self.spec.vocabulary, self.spec.dim, most_channels(None))[0]
        rows = parameters(replace(self.spec, layers=1, vocabulary=len(part)))
        weights = Arena(rows)
        initialize(weights, rows, _SEED)
        return {name.removeprefix("layers.0."): view for name, view in weights.views.items()}

    def _head(self, values: Mapping[str, Array], shape: LayerShape) -> Iterator[LayerProgram]:
        matrix = values.get("classifier", values["embedding"])
        constants = {"norm": values["norm"], "classifier": matrix}
        logits = classifier(shape, Constants(constants))
        yield from (logits, softmax(logits.output))
        yield final_norm_backward(shape, Constants({"norm": values["norm"]}))

    def _shape(self, *, static: bool) -> LayerShape:
        """That of a run which names no chip."""
        shape = layer_shape(self.spec, self.sequence)
        sequences = sequences_per_evaluation(shape, self._batch, None, static=static)
        return replace(shape, batch=sequences)

    @cached_property
    def cases(self) -> list[Case]:
        """Every case, in an order that is the same in each process."""
        training = all_cases(self.programs, self.static, self.spec.vocabulary)
        return [*training, *decode_cases(self.spec, self.sequence)]
