"""The plans of maderix/ANE, whose step times are published: what its loops evaluate and copy.

Read from train_large.m and three versions of training_dynamic/train.m. What it calls a step is one
sequence without the optimizer. Its README counts six programs of a layer for multi-head models: the
static loop evaluates six, the dynamic one eight (ten for grouped queries).
Letters: D model, Q queries, K keys, F feed-forward, S sequence, V vocabulary, P scores (heads x S).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ane_train.model.spec import ModelSpec
from ane_train.plan.work import GRADIENTS, Evaluation, Row, StepPlan, Work

ACTIVE_TOKENS = 9205  # of 32000 in its data: the dynamic pipeline cuts the vocabulary to them
# Bytes that its chains of vDSP calls read and write for an element, four for each operand.
_RMSNORM, _RMSNORM_BACKWARD, _SILU_BACKWARD, _SOFTMAX = 44, 120, 128, 40
_ADD = 12
_CONVERT, _COPY, _COPY_FP16 = 6, 8, 4  # bytes read and written for an element


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of the values of a layer; each row has S columns."""

    s: int
    d: int
    q: int
    k: int
    f: int
    p: int
    v: int
    layers: int

    @property
    def scores_flops(self) -> int:
        """Of one product of queries and keys, of all heads, future positions too."""
        return 2 * self.s * self.s * self.q

    @property
    def parameters(self) -> int:
        """Elements of the matrices of a layer."""
        return self.d * (2 * self.q + 2 * self.k + 3 * self.f)

    def product(self, *matrices: tuple[int, int]) -> int:
        """FLOP of matrices times S columns."""
        return sum(2 * rows * columns * self.s for rows, columns in matrices)


def _sizes(spec: ModelSpec, sequence: int, vocabulary: int) -> Sizes:
    query, key = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    scores = spec.heads * sequence
    return Sizes(sequence, spec.dim, query, key, spec.ffn, scores, vocabulary, spec.layers)


@dataclass(frozen=True, slots=True)
class _Program:
    """A program of a layer: elements of its surfaces; what the CPU converts and copies for it.

    `weights` are those in its input that stay there between updates.
    """

    name: str
    flops: float
    given: float
    result: float
    constants: float = 0
    convert: float = 0
    copy_fp16: float = 0
    copy_fp32: float = 0
    element_size: int = 2
    weights: float = 0

    def row(self, phase: str, layers: int) -> Row:
        """Its evaluations in one sequence."""
        works = (
            Work("convert", _CONVERT * self.convert),
            Work("copy", _COPY_FP16 * self.copy_fp16 + _COPY * self.copy_fp32),
        )
        size = self.element_size
        evaluation = Evaluation(
            self.flops,
            size * self.given,
            size * self.result,
            2 * self.constants,
            size * (self.given - self.weights),
            size * self.weights,
            size,
        )
        return Row(self.name, phase, layers, works, evaluation)


def static(spec: ModelSpec, sequence: int) -> StepPlan:
    """train_large: weights are constants, the norms before the blocks are in the programs."""
    z = _sizes(spec, sequence, spec.vocabulary)
    s, d, f, p = z.s, z.d, z.f, z.p
    heads = 2 * z.scores_flops
    forward = (
        _Program("fwdAttn", z.product((4 * d, d)) + heads, d * s, 6 * d * s, 4 * d * d, 4 * d * s),
        _Program(
            "fwdFFN",
            z.product((3 * f, d)),
            d * s,
            (2 * d + 3 * f) * s,
            3 * d * f,
            (3 * d + 3 * f) * s,
        ),
    )
    wide = (d + 2 * f) * s
    backward = (
        _Program("ffnBwd", z.product((3 * f, d)), wide, wide, 3 * d * f, d * s + wide, 2 * f * s),
        _Program(
            "sdpaBwd1",
            z.product((d, d)) + 3 * z.scores_flops,
            4 * d * s,
            (d + 2 * p) * s,
            d * d,
            2 * d * s,
            3 * d * s,
        ),
        _Program("sdpaBwd2", heads, 2 * (p + d) * s, 2 * d * s, 0, 2 * d * s, 2 * (p + d) * s),
        _Program("qkvBwd", z.product((3 * d, d)), 3 * d * s, d * s, 3 * d * d, d * s, 3 * d * s),
    )
    rows = (*_programs(z, forward, backward), *_cpu(z, norms=False, strided=False, residual=1.0))
    return StepPlan("maderix/ANE static", rows, 1, sequence)


def dynamic_fp32(spec: ModelSpec, sequence: int) -> StepPlan:
    """The first training_dynamic: nine programs on fp32 surfaces, written whole each time."""
    z = _sizes(spec, sequence, ACTIVE_TOKENS)
    s, d, f, p = z.s, z.d, z.f, z.p
    heads = 2 * z.scores_flops

    def whole(name: str, flops: float, given: float, result: float, read: float) -> _Program:
        return _Program(name, flops, given, result, copy_fp32=given + read, element_size=4)

    qkvo = z.product((4 * d, d)) + heads
    forward = (
        whole("sdpaFwd", qkvo, d * (s + 4 * d), 6 * d * s, 5 * d * s),
        whole("ffnW13", z.product((2 * f, d)), d * (s + 2 * f), 3 * f * s, 4 * f * s),
        whole("ffnW2", z.product((d, f)), f * (s + d), d * s, d * s),
    )
    backward = (
        whole("ffnBwdW2t", z.product((f, d)), d * (s + f), f * s, f * s),
        whole("ffnBwdW13t", z.product((2 * f, d)), f * (2 * s + 2 * d), d * s, d * s),
        whole("wotBwd", z.product((d, d)), d * (s + d), d * s, d * s),
        _scores_backward(z, convert=5 * d * s),
        _Program("sdpaBwd2", heads, 2 * (p + d) * s, 2 * d * s, 0, 4 * d * s, 2 * p * s),
        whole("qkvBwd", z.product((3 * d, d)), d * (3 * s + 3 * d), d * s, d * s),
    )
    cpu = (*_cpu(z, norms=True, strided=True, residual=1.0), _silu_backward(z))
    rows = (*_programs(z, forward, backward), *cpu)
    return StepPlan("maderix/ANE dynamic, fp32", rows, 1, sequence)


def dynamic(spec: ModelSpec, sequence: int, *, grouped: bool = True) -> StepPlan:
    """training_dynamic in fp16, weights staged ahead.

    Ten programs, for grouped queries (and any other model, in its newest version), or eight.
    """
    z = _sizes(spec, sequence, ACTIVE_TOKENS)
    forward = _grouped_forward(z) if grouped else _multi_head_forward(z)
    last = _grouped_projections(z) if grouped else _multi_head_projections(z)
    s, d, q, f = z.s, z.d, z.q, z.f
    both = d * s + f * s
    backward = (
        _Program("ffnBwdW2t", z.product((f, d)), d * (s + f), f * s, convert=both, weights=d * f),
        _Program(
            "ffnBwdW13t",
            z.product((2 * f, d)),
            f * (2 * s + 2 * d),
            d * s,
            convert=both + f * s,
            weights=2 * d * f,
        ),
        _Program(
            "wotBwd",
            z.product((d, q)),
            d * (s + q),
            q * s,
            convert=(d + q) * s,
            weights=d * q,
        ),
        _scores_backward(z, convert=5 * q * s),
        _Program(
            "sdpaBwd2",
            2 * z.scores_flops,
            2 * (z.p + q) * s,
            2 * q * s,
            convert=4 * q * s,
            copy_fp16=2 * z.p * s,
        ),
        *last,
    )
    rows = [*_programs(z, forward, backward), *_cpu(z, norms=True, strided=True, residual=2.0)]
    rows += [_silu_backward(z), _rotation_backward(z)]
    if grouped:
        rows.append(_tiling(z))
    name = "ten" if grouped else "eight"
    return StepPlan(f"maderix/ANE dynamic, {name} programs", tuple(rows), 1, sequence)


def _multi_head_forward(z: Sizes) -> tuple[_Program, ...]:
    s, d = z.s, z.d
    flops = z.product((4 * d, d)) + 2 * z.scores_flops
    given, result = d * (s + 4 * d), 6 * d * s
    attention = _Program("sdpaFwd", flops, given, result, convert=6 * d * s, weights=4 * d * d)
    return (attention, _fused_feed_forward(z))


def _grouped_forward(z: Sizes) -> tuple[_Program, ...]:
    s, d, q, k = z.s, z.d, z.q, z.k
    taps = 2 * q + 2 * k
    flops = z.product((q + 2 * k, d)) + 2 * z.scores_flops
    matrices, both = d * (q + 2 * k), (q + d) * s
    given, result = d * s + matrices, (taps + d) * s
    last = z.product((d, q))
    return (
        _Program("sdpaFwd", flops, given, result, convert=(d + taps) * s, weights=matrices),
        _Program("woFwd", last, q * (s + d), d * s, convert=both, weights=q * d),
        _fused_feed_forward(z),
    )


def _fused_feed_forward(z: Sizes) -> _Program:
    s, d, f = z.s, z.d, z.f
    given, result = d * (2 * s + 3 * f), (d + 3 * f) * s
    flops, converted = z.product((3 * f, d)), 2 * d * s + result
    return _Program("ffnFused", flops, given, result, convert=converted, weights=3 * d * f)


def _multi_head_projections(z: Sizes) -> tuple[_Program, ...]:
    s, d = z.s, z.d
    given, flops = d * (3 * s + 3 * d), z.product((3 * d, d))
    return (_Program("qkvBwd", flops, given, d * s, convert=4 * d * s, weights=3 * d * d),)


def _grouped_projections(z: Sizes) -> tuple[_Program, ...]:
    s, d, q, k = z.s, z.d, z.q, z.k
    x = d * s
    query, keys = z.product((q, d)), z.product((2 * k, d))
    both = q * (s + d), k * (2 * s + 2 * d)
    return (
        _Program("qBwd", query, both[0], x, convert=q * s + x, weights=q * d),
        _Program("kvBwd", keys, both[1], x, convert=2 * k * s + x, weights=2 * k * d),
    )


def _scores_backward(z: Sizes, convert: float) -> _Program:
    """Scores again, and the gradients of values and of probabilities; it has no weights."""
    given, result = 4 * z.q * z.s, (z.q + 2 * z.p) * z.s
    return _Program("sdpaBwd1", 3 * z.scores_flops, given, result, convert=convert)


def _programs(
    z: Sizes, forward: tuple[_Program, ...], backward: tuple[_Program, ...]
) -> Iterator[Row]:
    yield from (program.row("forward", z.layers) for program in forward)
    yield from (program.row("backward", z.layers) for program in backward)


def _cpu(z: Sizes, *, norms: bool, strided: bool, residual: float) -> Iterator[Row]:
    """What every version does between its programs.

    norms: the norms before the blocks are the CPU's forward too;
    strided: the loss gathers columns of the logits and scatters them, instead of transposing;
    residual: passes over the gradient of the residual, in passes that add it twice.
    """
    s, d, layers = z.s, z.d, z.layers
    x = d * s
    forward, backward = 1 + 2 * layers * norms, 1 + 2 * layers
    logits = z.v * s
    loss = [Work("exp", logits), Work("elementwise", _SOFTMAX * logits)]
    loss.append(Work("strided" if strided else "transpose", 2 * logits))
    classifier = z.product((z.v, d))
    captured = 4 * d + 3 * z.f + 2 * z.q + 2 * z.k
    gradients = (
        Work("blas", z.product((z.parameters, 1)), GRADIENTS),
        Work("accumulate", _COPY * z.parameters, GRADIENTS),
    )
    adds = _ADD * x * 2
    copies = Work("copy", _COPY * x)
    yield Row("embedding", "forward", 1, (Work("strided", x),))
    yield Row("residual", "forward", layers, (Work("elementwise", adds), copies))
    yield Row("RMSNorm", "forward", forward, (Work("elementwise", _RMSNORM * x),))
    yield Row("classifier", "head", 1, (Work("blas", 2 * classifier),))
    yield Row("loss", "head", 1, tuple(loss))
    norm = Work("elementwise", _RMSNORM_BACKWARD * x)
    yield Row("RMSNorm backward", "backward", backward, (norm,))
    passed = Work("elementwise", residual * adds)
    yield Row("residual backward", "backward", layers, (passed, copies))
    yield Row("captures", "backward", layers, (Work("copy", _COPY * captured * s),))
    yield Row("gradients", "backward", layers, gradients)
    yield Row(
        "classifier gradient",
        "backward",
        1,
        (
            Work("blas", classifier, GRADIENTS),
            Work("accumulate", _COPY * z.v * d, GRADIENTS),
        ),
    )
    yield Row("embedding backward", "backward", 1, (Work("strided", x),))


def _silu_backward(z: Sizes) -> Row:
    n = z.f * z.s
    works = (Work("exp", n), Work("elementwise", _SILU_BACKWARD * n))
    return Row("SiLU backward", "backward", z.layers, works)


def _rotation_backward(z: Sizes) -> Row:
    """A sine and a cosine for each pair, in the innermost loop."""
    pairs = (z.q + z.k) * z.s / 2
    return Row("rotation backward", "backward", z.layers, (Work("rotation", pairs),))


def _tiling(z: Sizes) -> Row:
    """Keys and values copied for each query head, and their gradients summed."""
    n = z.q * z.s
    works = (Work("copy", 2 * _COPY * n), Work("elementwise", 2 * _ADD * n))
    return Row("tiling of keys", "backward", z.layers, works)
