"""Who computes what: one row for each way to spread a model over the engine and the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ane_train.model.arena import Arena
from ane_train.model.spec import ModelSpec
from ane_train.train.block import BlockContext
from ane_train.train.dynamic import DynamicPipeline
from ane_train.train.engine_head import EngineHead
from ane_train.train.head import CpuHead, Head
from ane_train.train.norm import EngineNorm
from ane_train.train.pipeline import Pipeline
from ane_train.train.static import StaticPipeline


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The parts of a step that differ. `shared` is what the blocks are to be made with."""

    shared: BlockContext
    pipeline: Pipeline
    head: Head


def _dynamic(spec: ModelSpec, shared: BlockContext, weights: Arena) -> Arrangement:
    return Arrangement(
        shared, DynamicPipeline(shared, weights, spec.layers), _cpu_head(spec, shared)
    )


def _static(spec: ModelSpec, shared: BlockContext, weights: Arena) -> Arrangement:
    return Arrangement(
        shared, StaticPipeline(shared, weights, spec.layers), _cpu_head(spec, shared)
    )


def _static_with_extras(spec: ModelSpec, shared: BlockContext, weights: Arena) -> Arrangement:
    """Head and backward of the norms on the engine too."""
    shared = replace(shared, norm=EngineNorm)
    head = EngineHead(spec, shared, weights)
    return Arrangement(shared, StaticPipeline(shared, weights, spec.layers, head.slots), head)


def _cpu_head(spec: ModelSpec, shared: BlockContext) -> CpuHead:
    context, columns = shared.engine.context, shared.shape.columns
    return CpuHead(spec, columns, context, shared.timings, shared.workspace)


# By --pipeline and --engine-extras.
ARRANGEMENTS: Mapping[tuple[str, bool], Callable[[ModelSpec, BlockContext, Arena], Arrangement]] = (
    MappingProxyType(
        {
            ("dynamic", False): _dynamic,
            ("static", False): _static,
            ("static", True): _static_with_extras,
        }
    )
)
