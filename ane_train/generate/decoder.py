"""A text being continued on an engine: the programs of all layers and their key-value caches.

The residual stream enters and leaves each program in fp32. Programs of one token and of a prompt's
share their surfaces, where the caches are; when those are full, larger ones and new programs
replace them. All compiles fit the engine's budget: programs hold more layers where it is small,
and the last caches that it allows for hold the whole context.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ane_train.engine import Engine
from ane_train.errors import EngineError
from ane_train.model.arena import Arena, Array
from ane_train.model.layer import layer_constants, layer_shape
from ane_train.model.spec import ModelSpec
from ane_train.native.engine import Request, Surface
from ane_train.programs import Constants, LayerProgram, Packing
from ane_train.programs.decode import (
    DecodeShape,
    decode_input,
    decode_program,
    mask_rows,
    rotary_tables,
    token_scale,
)

Tokens = npt.NDArray[np.int32]

SMALLEST_CACHE = 64
LARGEST_PROMPT = 256  # tokens of one evaluation; a longer prompt takes several
_PROGRAM_BYTES = 128 << 20  # of fp16 weights: few dispatches, and no program that compiles for long


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """How a decoder is built.

    context: most tokens that it holds. prompt: tokens that one evaluation takes in at most, rounded
    up to 64, 128 or 256. program_bytes: fp16 weights of one program. residual_scale: what each
    block's output is multiplied by.
    """

    context: int
    prompt: int = 64
    int8: bool = False
    program_bytes: int = _PROGRAM_BYTES
    residual_scale: float = 1.0


@dataclass(slots=True)
class _Bound:
    layout: LayerProgram
    target: Surface
    request: Request


@dataclass(slots=True)
class _Group:
    """Consecutive layers that share programs, with the surface of their caches."""

    weights: tuple[Constants, ...]
    shape: DecodeShape
    packing: Packing
    surface: Surface
    programs: dict[int, _Bound] = field(default_factory=dict)

    @property
    def cache_rows(self) -> int:
        return 2 * self.shape.layers * self.shape.layer.key


class Decoder:
    """Continues one text at a time. The weights may not change while it is in use."""

    def __init__(
        self, spec: ModelSpec, weights: Arena, engine: Engine, options: DecoderOptions
    ) -> None:
        self.spec, self.engine, self.options = spec, engine, options
        self.length = 0
        self._lanes = _power_of_two(min(options.prompt, LARGEST_PROMPT), SMALLEST_CACHE)
        layers = [layer_constants(weights, index) for index in range(spec.layers)]
        self._layers = [tuple(part) for part in _balanced(layers, self._layers_per_program())]
        self._groups: list[_Group] = []

    def _layers_per_program(self) -> int:
        """As many as program_bytes hold, or the fewest for which the budget suffices.

        EngineError if there is no such number.
        """
        spec = self.spec
        query, key = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
        layer = 2 * spec.dim * (2 * query + 2 * key + 3 * spec.ffn)
        usual = min(spec.layers, max(1, self.options.program_bytes // layer))
        for most in range(usual, spec.layers + 1):
            programs = 2 * _parts(spec.layers, most)
            if self.engine.budget.fits(programs, programs):
                return most
        raise EngineError(
            "a text needs two programs, for its prompt and for each token after it, and the "
            "limit leaves fewer: raise --compile-limit"
        )

    def reserve(self, tokens: int) -> None:
        """Makes room for a text of so many tokens now, rather than bit by bit."""
        context = self.options.context
        cache = max(_power_of_two(min(tokens, context), SMALLEST_CACHE), self._lanes)
        if not self._groups or cache > self._groups[0].shape.cache:
            left = self.engine.budget.left
            if left is not None and left < 2 * 2 * len(self._layers):  # for these and larger ones
                cache = max(_power_of_two(context, SMALLEST_CACHE), self._lanes)
            self._groups = [
                self._new_group(index, part, cache) for index, part in enumerate(self._layers)
            ]

    def _new_group(self, index: int, weights: tuple[Constants, ...], cache: int) -> _Group:
        shape = DecodeShape(layer_shape(self.spec, 1), cache, len(weights), self._lanes)
        packing = decode_input(shape)
        group = _Group(weights, shape, packing, self._surface(packing))
        if self._groups and self.length:
            old = self._groups[index].surface
            group.surface.copy_from(0, 0, old, 0, 0, group.cache_rows, self.length)
        return group

    def _surface(self, packing: Packing) -> Surface:
        return self.engine.context.surface(
            packing.channels, packing.width, self.engine.element_size
        )

    def extend(self, x: Array) -> Array:
        """Takes in tokens by their embeddings x [D, N]; the residual stream after the last layer.

        EngineError where the context would overflow.
        """
        count = x.shape[1]
        if self.length + count > self.options.context:
            raise EngineError(
                f"{self.length + count} tokens do not fit the context of {self.options.context}"
            )
        self.reserve(self.length + count)
        if count == 1:
            return self._step(x)
        parts = [self._step(x[:, i : i + self._lanes]) for i in range(0, count, self._lanes)]
        return np.concatenate(parts, axis=1)

    def _step(self, x: Array) -> Array:
        count = x.shape[1]
        tokens = 1 if count == 1 else self._lanes
        shape = self._groups[0].shape if tokens == 1 else self._groups[0].shape.of_prompt()
        mask, place = mask_rows(shape, self.length, count)
        tables = rotary_tables(shape.layer, self.length, tokens)
        for group in self._groups:
            x = self._evaluate(group, x, tokens, (tables, mask, place))
        self.length += count
        return x

    def _evaluate(
        self, group: _Group, x: Array, tokens: int, positions: tuple[Array, Array, Array]
    ) -> Array:
        """One program: x [D, count] in and out, the caches' new columns written."""
        tables, mask, place = positions
        dim, count = x.shape
        bound = group.programs.get(tokens) or self._compile(group, tokens)
        head = np.zeros((dim + 2 + len(tables), tokens), np.float32)
        head[:dim, :count] = x
        scale, epsilon = token_scale(head[:dim], dim, self.spec.norm_epsilon)
        head[:dim] *= scale
        head[dim] = scale * np.float32(self.options.residual_scale)
        head[dim + 1], head[dim + 2 :] = epsilon, tables
        surface, packing = group.surface, group.packing
        surface.write(head, packing["x"].row)
        surface.write(mask, packing["mask"].row)
        surface.write(place, packing["place"].row)
        bound.request.evaluate()
        result = bound.target.read()
        result = result.reshape(-1, 1) if tokens == 1 else result[:, :count]
        surface.write(result[: group.cache_rows], 0, self.length)
        x = result[group.cache_rows : group.cache_rows + dim]
        return np.asarray(x / scale[:count], np.float32)

    def _compile(self, group: _Group, tokens: int) -> _Bound:
        shape = group.shape if tokens == 1 else group.shape.of_prompt()
        layout = decode_program(shape, group.weights, int8=self.options.int8)
        target = self._surface(layout.output)
        request = self.engine.compile(layout.program, layout.name).request(
            [group.surface], [target]
        )
        group.programs[tokens] = _Bound(layout, target, request)
        return group.programs[tokens]

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        for group in self._groups:
            forgotten = self.length - length
            if forgotten > 0:
                zeros = np.zeros((group.cache_rows, forgotten), np.float32)
                group.surface.write(zeros, 0, length)
        self.length = min(self.length, length)

    def close(self) -> None:
        """Lets programs and caches go. The engine stays open."""
        self._groups, self.length = [], 0


def _power_of_two(size: int, least: int) -> int:
    return max(least, 1 << (size - 1).bit_length())


def _balanced(layers: list[Constants], most: int) -> list[list[Constants]]:
    """Runs of at most so many layers, as equal as they can be."""
    parts = _parts(len(layers), most)
    bounds = [len(layers) * index // parts for index in range(parts + 1)]
    return [layers[a:b] for a, b in pairwise(bounds)]


def _parts(layers: int, most: int) -> int:
    return -(-layers // most)
