"""The static pipeline: weights are constants of the programs, and a refresh compiles them anew.

A thread compiles: forward programs as soon as their layer's weights are there, backward ones after
them in the order of their use, while the next step begins. A program is awaited where it is
evaluated, so no bit depends on the time that compiling takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from ane_train.errors import EngineError
from ane_train.model.arena import Arena, Array
from ane_train.model.layer import layer_constants
from ane_train.native import arithmetic
from ane_train.native.engine import Program, Request, Surface
from ane_train.programs import Constants, LayerProgram, layer_programs
from ane_train.programs.blocks import KINDS, BlockKind
from ane_train.threads import single_thread
from ane_train.train.block import BlockContext
from ane_train.train.bound import BoundProgram, Place, surface_of
from ane_train.train.kept import Kept
from ane_train.train.norm import stage_residual
from ane_train.train.pipeline import Refresh


class CompiledSlot:
    """One program of one block, on surfaces that stay while the program is replaced.

    delta: the new program takes over the old one's compiled form, so that only the first compiles.
    """

    def __init__(
        self, shared: BlockContext, layout: LayerProgram, target: Surface | None = None
    ) -> None:
        engine = shared.engine
        self.layout, self._engine, self._timings = layout, engine, shared.timings
        self._delta, self._digest = shared.delta, b""
        self._text = engine.print(layout.program, layout.name)
        self.source = surface_of(engine, layout.input)
        self.target = target or surface_of(engine, layout.output)
        self._program: Program | None = None
        self._request: Request | None = None
        self._pending: Future[None] | None = None

    def renew(self, compiler: ThreadPoolExecutor) -> None:
        """Queues the replacement of the program by one with the weights as they are now."""
        self._pending = compiler.submit(self._compile)

    def wait(self) -> None:
        """Returns when nothing is being compiled; raises what went wrong."""
        if self._pending is not None:
            with self._timings.measure("compile"):
                self._pending.result()
            self._pending = None

    @property
    def bound(self) -> BoundProgram:
        """The program with the weights of the last refresh."""
        self.wait()
        if self._request is None:
            raise EngineError("the budget of compiles is spent; resume the run in a new process")
        return BoundProgram(self.layout, self.source, self.target, self._request)

    def release(self) -> None:
        """Unloads the program, if there is one."""
        for handle in (self._request, self._program):
            if handle is not None:
                handle.close()
        self._request = self._program = None

    def _compile(self) -> None:
        """Runs on the compile thread."""
        files = self._engine.weight_files(self.layout.program)
        if self._delta:
            self._take_over(files)
        else:
            self.release()  # the old program goes first, to keep few of them loaded
            self._put(self._compiled(files, None))

    def _take_over(self, files: Mapping[str, bytes]) -> None:
        """With equal weights there is nothing to replace, and the system would refuse to."""
        digest = hashlib.blake2b(b"".join(files.values())).digest()
        if digest != self._digest or self._program is None:
            program = self._compiled(files, self._program)
            self.release()
            self._put(program)
        self._digest = digest

    def _compiled(self, files: Mapping[str, bytes], donor: Program | None) -> Program:
        return self._engine.compile_text(self._text, files, self.layout.name, donor)

    def _put(self, program: Program) -> None:
        self._program = program
        self._request = program.request([self.source], [self.target])


class CompiledBlock:
    """Both programs of one block."""

    def __init__(
        self, kind: BlockKind, layer: int, shared: BlockContext, slots: dict[str, CompiledSlot]
    ) -> None:
        self.kind, self.prefix, self.shared = kind, f"layers.{layer}.", shared
        self.forward_slot = forward = slots[f"{kind.name}_forward"]
        self.backward_slot = backward = slots[f"{kind.name}_backward"]
        surfaces = forward.target, backward.source
        self.kept = Kept(shared.engine, kind, forward.layout, backward.layout, surfaces)

    @property
    def forward(self) -> BoundProgram:
        """The forward program, awaited."""
        return self.forward_slot.bound

    @property
    def backward(self) -> BoundProgram:
        """The backward program, awaited."""
        return self.backward_slot.bound

    def feed(self, x: Array, weights: Arena) -> None:
        """Stages x, scaled to fit fp16, and the epsilon that goes with the scale."""
        forward = self.forward
        with self.shared.timings.measure("io"):
            stage_residual(forward, x, self.shared.shape)

    def inverse_rms(self, x: Array, weights: Arena) -> Array:
        """Computed again: the program keeps its own to itself."""
        shared = self.shared
        inverse = shared.workspace.array("inverse_rms", x.shape[1])
        arithmetic.rmsnorm_forward(
            shared.engine.context,
            x,
            weights[self.prefix + self.kind.norm],
            shared.shape.norm_epsilon,
            shared.workspace.array("normalized", *x.shape),
            inverse,
        )
        return inverse

    def normalized(self) -> Place:
        """The forward program's tap."""
        return self.kept["normalized"]


class StaticPipeline:
    """Programs of its own for each layer; they follow the weights as far as the budget goes.

    `head` are further programs to keep up with the weights, in the order of their use.
    """

    def __init__(
        self,
        shared: BlockContext,
        weights: Arena,
        layers: int,
        head: Sequence[CompiledSlot] = (),
    ) -> None:
        self._engine, self._layers, self._head = shared.engine, layers, head
        self._slots: list[dict[str, CompiledSlot]] = []
        for layer in range(layers):
            constants = _constants(weights, layer, shared)
            layouts = {p.name: p for p in layer_programs(shared.shape, constants)}
            outputs = {
                f"{kind.name}_{way}": output
                for kind in KINDS
                for way, output in zip(
                    ("forward", "backward"), shared.outputs_of(kind, layer, layouts), strict=True
                )
            }
            self._slots.append(
                {
                    name: CompiledSlot(shared, layout, outputs[name])
                    for name, layout in layouts.items()
                }
            )
        distinct = (*self._slots[0].values(), *head)
        self.programs: tuple[LayerProgram, ...] = tuple(slot.layout for slot in distinct)
        self._count = sum(map(len, self._slots)) + len(head)
        self._delta = shared.delta
        self._require_budget()
        self._blocks = {
            (kind.name, layer): CompiledBlock(kind, layer, shared, slots)
            for layer, slots in enumerate(self._slots)
            for kind in KINDS
        }
        self._compiler = single_thread("compiler")
        self.ready = False

    def _require_budget(self) -> None:
        """What was compiled so far, once for all, will have to be in any new process too."""
        counts, count = self._engine.context.counts(), self._count
        loads = counts.loaded + count + self._delta
        purpose = "a step of the static pipeline"
        self._engine.budget.require(counts.compiled + count, loads, purpose)

    def block(self, kind: str, layer: int) -> CompiledBlock:
        """The programs of a block."""
        return self._blocks[kind, layer]

    @contextmanager
    def refreshing(self) -> Iterator[Refresh]:
        """Gives the function that compiles a layer's programs, or lets them go where none fit."""
        self._wait()
        self.ready = self._fits()
        yield self._renew_forward if self.ready else self._release
        for slot in self._head:
            if self.ready:
                slot.renew(self._compiler)
            else:
                slot.release()
        if self.ready:
            for layer in reversed(range(self._layers)):
                for kind in reversed(KINDS):
                    self._blocks[kind.name, layer].backward_slot.renew(self._compiler)

    def _fits(self) -> bool:
        """Whether the budget has room for all programs with new weights."""
        if self._delta and self.ready:
            return self._engine.budget.fits(0, 1)
        return self._engine.budget.fits(self._count, 0 if self.ready else self._count)

    def _renew_forward(self, layer: int) -> None:
        for kind in KINDS:
            self._blocks[kind.name, layer].forward_slot.renew(self._compiler)

    def _release(self, layer: int) -> None:
        for slot in self._slots[layer].values():
            slot.release()

    def _wait(self) -> None:
        for slots in (*(each.values() for each in self._slots), self._head):
            for slot in slots:
                slot.wait()

    def close(self) -> None:
        """Ends the compile thread after what it does now."""
        self._compiler.shutdown(cancel_futures=True)


def _constants(weights: Arena, layer: int, shared: BlockContext) -> Constants:
    return replace(
        layer_constants(weights, layer),
        file=shared.weight_file,
        norm_backward=shared.norm.in_program,
    )
