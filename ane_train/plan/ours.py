"""The plan of our own step, from the layouts of its programs and the tables of its blocks.

Evaluations and staged bytes are those of train.block, train.dynamic, train.static and
train.engine_head; a test counts them in real steps. Bytes of CPU work are what its loops read and
write. Letters as in `programs.shape`, and V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from ane_train import mil
from ane_train.errors import ConfigError
from ane_train.model.layer import layer_shape
from ane_train.model.memory import head_programs, shapes_alone, tile_positions, tile_rows
from ane_train.model.parameters import count
from ane_train.model.spec import ModelSpec
from ane_train.plan.work import GRADIENTS, MAIN, Evaluation, Row, StepPlan, Work
from ane_train.programs import (
    Block,
    LayerProgram,
    LayerShape,
    layer_programs,
    sequences_per_evaluation,
)
from ane_train.programs.blocks import KINDS, BlockKind, kept_blocks

_FP16, _FP32 = 2, 4
_CONVERT, _COPY, _TAP = 6, 8, 4  # bytes read and written for an element
_ADDED = 10  # the same where the element is added to
_RMSNORM, _RMSNORM_BACKWARD, _SCAN, _LOSS = 12, 24, 8, 16
_UPDATE = 36  # of the moments, the weight and the gradient, which is squared and zeroed besides


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How a step is put together: the settings of a run that change its programs."""

    pipeline: str = "dynamic"
    extras: bool = False
    batch_size: int = 1
    accum: int = 1


def step_plan(spec: ModelSpec, sequence: int, options: PlanOptions, chip: str) -> StepPlan:
    """Everything that one optimizer step does. ConfigError for options that do not go together."""
    if options.extras and options.pipeline != "static":
        raise ConfigError("--engine-extras needs --pipeline static")
    shape = _shape(spec, sequence, options, chip)
    layer = _Layer.of(spec, shape, options)
    head = _engine_head(layer, chip) if options.extras else list(_cpu_head(layer))
    rows = [Row("embedding", "forward", 1, (Work("strided", layer.residual),))]
    rows += [layer.forward(kind) for kind in KINDS]
    rows += head
    rows += [layer.backward(kind) for kind in reversed(KINDS)]
    rows += [Row("embedding backward", "backward", 1, (Work("strided", layer.residual),))]
    rows += layer.update()
    parts = sum(row.times for row in head if row.name in ("classifier", "final_norm_backward"))
    is_static = options.pipeline == "static"
    compiles = len(layer.programs) * spec.layers + (parts if options.extras else 0)
    title = f"{spec.name}, {options.pipeline}" + (" with engine extras" if options.extras else "")
    sequences = options.batch_size * options.accum
    passes = options.accum * ceil(options.batch_size / shape.batch)
    compiles = compiles if is_static else 0
    return StepPlan(title, tuple(rows), sequences, sequence, compiles, passes)


def _shape(spec: ModelSpec, sequence: int, options: PlanOptions, chip: str) -> LayerShape:
    """A layer with as many sequences of a micro-batch side by side as the chip takes."""
    shape, static = layer_shape(spec, sequence), options.pipeline == "static"
    sequences = sequences_per_evaluation(shape, options.batch_size, chip, static=static)
    return replace(shape, batch=sequences)


def flops(program: mil.Program) -> float:
    """Floating-point operations of the matrix products and convolutions of one evaluation."""
    return float(sum(_op_flops(op) for op in program.ops))


def _op_flops(op: mil.Op) -> int:
    if op.kind not in ("matmul", "conv"):
        return 0
    x, out = op.arguments["x"], op.outputs[0]
    assert isinstance(x, mil.Value), "not variadic"
    if op.kind == "matmul":
        flag = op.constant("transpose_x")
        depth = x.shape[-2 if flag is not None and bool(flag.data) else -1]
    else:
        weight = op.arguments["weight"]
        assert isinstance(weight, mil.Value), "not variadic"
        depth = prod(weight.shape[1:])
    return 2 * out.type.elements * depth


def _elements(block: Block) -> int:
    return block.rows * block.columns


def _evaluation(program: LayerProgram, staged: float, restaged: float = 0) -> Evaluation:
    filed = (value for value in program.program.constants if value.file is not None)
    return Evaluation(
        flops(program.program),
        _FP16 * program.input.elements,
        _FP16 * program.output.elements,
        sum(value.type.bytes for value in filed),
        _FP16 * staged,
        _FP16 * restaged,
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's programs by name, and what surrounds them."""

    spec: ModelSpec
    shape: LayerShape
    programs: dict[str, LayerProgram]
    static: bool
    extras: bool

    @classmethod
    def of(cls, spec: ModelSpec, shape: LayerShape, options: PlanOptions) -> _Layer:
        static = options.pipeline == "static"
        constants = shapes_alone(spec, options.extras) if static else None
        programs = layer_programs(shape, constants)
        named = {program.name: program for program in programs}
        return cls(spec, shape, named, static, options.extras)

    @property
    def residual(self) -> int:
        """Elements of the residual stream, D * BS."""
        return self.spec.dim * self.shape.columns

    @property
    def fed(self) -> int:
        """Elements that are staged for a program with a norm: the residual stream, and epsilon."""
        return self.residual + self.shape.columns

    def forward(self, kind: BlockKind) -> Row:
        """x is kept, normalised by either side, staged; y is added to it; taps and factors kept."""
        program, x = self.programs[f"{kind.name}_forward"], self.residual
        factors = sum(_elements(program.output[name]) for name in kept_blocks(kind, program.output))
        staged = self.fed if self.static else x
        works = (
            Work("copy", _COPY * x + _TAP * (self._taps(kind) + factors)),
            Work("elementwise", (_SCAN if self.static else _RMSNORM) * x),
            Work("convert", _CONVERT * staged + _ADDED * x),
        )
        evaluation = _evaluation(program, staged, self._restaged(program, kind))
        return Row(program.name, "forward", self.spec.layers, works, evaluation)

    def backward(self, kind: BlockKind) -> Row:
        """dy in, dx out, the norm on either side; gradients of weights beside the next."""
        program, x, taps = self.programs[f"{kind.name}_backward"], self.residual, self._taps(kind)
        staged = x + taps + (self.fed if self.extras else 0)
        converted = _CONVERT * (staged - taps) + (_ADDED if self.extras else _CONVERT) * x
        norm = _SCAN if self.extras else _RMSNORM_BACKWARD + (_RMSNORM if self.static else 0)
        works = (
            Work("convert", converted),
            Work("elementwise", norm * x),
            *self._gradients(kind),
        )
        evaluation = _evaluation(program, staged, self._restaged(program, kind))
        return Row(program.name, "backward", self.spec.layers, works, evaluation)

    def update(self) -> Iterator[Row]:
        """The optimizer, and the weights on their way into the programs."""
        parameters = count(self.spec)
        yield Row("optimizer", "update", 1, (Work("elementwise", _UPDATE * parameters),))
        if self.static:
            return
        for kind in KINDS:
            programs = (self.programs[f"{kind.name}_{way}"] for way in ("forward", "backward"))
            staged = sum(self._restaged(program, kind) for program in programs)
            works = (Work("convert", _CONVERT * staged), Work("transpose", staged / 2))
            yield Row(f"{kind.name} staging", "update", self.spec.layers, works)

    def _taps(self, kind: BlockKind) -> int:
        """Elements that go from the forward output into the backward input."""
        program = self.programs[f"{kind.name}_backward"]
        return sum(_elements(program.input[name]) for _, name in kind.taps)

    def _restaged(self, program: LayerProgram, kind: BlockKind) -> int:
        """Elements of weights in the program's input."""
        if self.static:
            return 0
        names = {*(weight.name for weight in kind.weights), "gamma"}
        return sum(_elements(program.input[name]) for name in names & program.input.blocks.keys())

    def _gradients(self, kind: BlockKind) -> Iterator[Work]:
        """Both factors as fp32, and their product added to the gradient; gains summed."""
        s = self.shape.columns
        for weight in kind.weights:
            left, right = (self._rows(kind, path) for path in (weight.left, weight.right))
            yield Work("convert", _CONVERT * (left + right) * s, GRADIENTS)
            yield Work("blas", 2 * left * right * s, GRADIENTS)
            yield Work("accumulate", _COPY * left * right, GRADIENTS)
        gains = (kind.norm,) if self.extras else ()
        for name in (*(kind.gains if self.spec.qk_norm else ()), *gains):
            elements = self._rows(kind, f"backward.output.{name}") * s
            yield Work("convert", _CONVERT * elements, GRADIENTS)
            yield Work("elementwise", _FP32 * elements, GRADIENTS)

    def _rows(self, kind: BlockKind, path: str) -> int:
        if path == "normalized":
            return self.spec.dim
        way, side, name = path.split(".")
        program = self.programs[f"{kind.name}_{way}"]
        return (program.input if side == "input" else program.output)[name].rows


def _cpu_head(layer: _Layer) -> Iterator[Row]:
    """Norm, classifier in tiles of positions, loss, all in fp32."""
    v, x, s = layer.spec.vocabulary, layer.residual, layer.shape.columns
    tiles = ceil(s / tile_positions(v, s))
    classifier = (
        Work("blas", 3 * 2 * v * x),
        Work("accumulate", _COPY * tiles * v * layer.spec.dim),
        Work("copy", 3 * _COPY * x),
    )
    loss = (Work("exp", v * s), Work("elementwise", _LOSS * v * s))
    norm = Work("elementwise", (_RMSNORM + _RMSNORM_BACKWARD + _FP32) * x)
    yield Row("classifier", "head", 1, classifier)
    yield Row("loss", "head", 1, loss)
    yield Row("final norm", "head", 1, (norm,))


def _engine_head(layer: _Layer, chip: str) -> list[Row]:
    """Norm, classifier and softmax in parts of the vocabulary on the engine; the rest in tiles."""
    spec, s, x = layer.spec, layer.shape.columns, layer.residual
    most = mil.most_channels(chip)
    rows = []
    for program in head_programs(spec, layer.shape, most):
        staged = {"softmax": 0, "classifier": layer.fed}.get(program.name, layer.fed + x)
        works: tuple[Work, ...] = (
            Work("elementwise", _SCAN * staged),
            Work("convert", _CONVERT * staged),
        )
        if program.name == "final_norm_backward":
            works += (Work("convert", 2 * _CONVERT * x), Work("elementwise", _FP32 * x))
        rows.append(Row(program.name, "head", 1, works, _evaluation(program, staged)))
    backward = (
        Work("convert", _CONVERT * (spec.vocabulary * s + x)),
        Work("elementwise", _RMSNORM * spec.vocabulary * s),
        Work("blas", 2 * 2 * spec.vocabulary * x, MAIN),
        Work("accumulate", _COPY * spec.vocabulary * spec.dim),
        Work("accumulate", _COPY * x * ceil(spec.vocabulary / tile_rows(spec.vocabulary, s))),
    )
    rows.append(Row("classifier backward", "head", 1, backward))
    return rows
