"""How much memory a training run needs, before any of it is allocated, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ane_train.mil import Value, most_channels
from ane_train.model.adapters import Lora, adapters
from ane_train.model.parameters import count, parameters
from ane_train.model.spec import ModelSpec
from ane_train.native.library import reads_halves
from ane_train.programs import (
    Constants,
    LayerProgram,
    LayerShape,
    classifier,
    final_norm_backward,
    layer_programs,
    softmax,
    split_vocabulary,
)
from ane_train.programs.blocks import KINDS, kept_blocks

_LOGITS_TILE = 80 << 20
_MANY = 4  # MIL_MANY of csrc/cpu/kernels.h
_PROCESS = 200 << 20  # the interpreter, NumPy, BLAS buffers, the data's windows


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by purpose."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Sum of all parts in bytes."""
        return sum(self.parts.values())


def tile_positions(vocabulary: int, columns: int) -> int:
    """Of BS positions a tile's, whose fp32 logits fit 80 MiB or are 16 rows; as few as can be.

    Each tile costs two passes over the classifier and two over its gradient, so they are equal.
    """
    most = max(16, _LOGITS_TILE // (4 * vocabulary))
    return -(-columns // -(-columns // most))


def tile_rows(vocabulary: int, columns: int) -> int:
    """Rows of the vocabulary whose fp32 logits over BS positions fit 80 MiB: at least 16."""
    return min(vocabulary, max(16, _LOGITS_TILE // (4 * columns)))


def estimate(
    spec: ModelSpec,
    shape: LayerShape,
    numerics: str = "fp16",
    pipeline: str = "dynamic",
    *,
    extras: bool = False,
    lora: Lora | None = None,
    threads: int = 0,
) -> MemoryEstimate:
    """What training `spec` takes on the software engine, with evaluations of such a `shape`.

    `threads` are the engine's, 0 one per core.
    """
    weights = shapes_alone(spec, extras) if pipeline == "static" else None
    programs = layer_programs(shape, weights)
    head = head_programs(spec, shape, most_channels(None)) if extras else []
    size = 4 if numerics == "fp32" else 2
    constants = sum(value.type.elements for p in programs for value in _filed(p))
    inputs = sum(program.input.elements for program in programs)
    outputs = _outputs({program.name: program for program in programs}, spec.layers)
    widest = max(p.output.elements for p in programs if p.name.startswith("attention"))
    attention = 2 * _scores(shape, threads or os.cpu_count() or 1) + 5 * widest // 2
    copies = pipeline == "dynamic" and size < 4 and not reads_halves()
    residuals = 2 * spec.layers * (spec.dim + 1) * shape.columns
    parts = {
        **_trained(spec, lora),
        "staged inputs": size * inputs * spec.layers,
        "outputs kept for the backward pass": size * outputs,
        "fp32 copies of staged weights": 4 * 2 * _matrices(spec) if copies else 0,
        "constants of programs (fp32)": 4
        * constants
        * (spec.layers if pipeline == "static" else 1),
        "surfaces of the head": size * sum(_surfaces(program) for program in head),
        "constants of the head (fp32), and one as a file": 4
        * sum(value.type.elements for program in head for value in _filed(program))
        + size * max((value.type.elements for p in head for value in _filed(p)), default=0),
        "residual stream": 4 * residuals,
        "logits": 4 * spec.vocabulary * tile_positions(spec.vocabulary, shape.columns),
        "scratch": 4 * max(attention, shape.columns * (shape.dim + shape.ffn)),
        "factors of gradients": 4 * 4 * (spec.dim + shape.query + shape.ffn) * shape.columns,
        "scratch of the head": 12 * max((p.output.elements for p in head), default=0),
        "process": _PROCESS,
    }
    return MemoryEstimate(parts)


def _scores(shape: LayerShape, threads: int) -> int:
    """Elements of the scores that there are at a time.

    Of few groups of heads all, else of each thread those of one group.
    """
    groups, one = shape.kv_heads * shape.batch, shape.heads // shape.kv_heads * shape.sequence**2
    return one * (groups if groups < _MANY else min(groups, threads))


def _trained(spec: ModelSpec, lora: Lora | None) -> dict[str, int]:
    """What is trained; with adapters also what they stand beside, as kept and as computed with."""
    if lora is None:
        return {"weights, gradients, two moments (fp32)": 16 * count(spec)}
    found = adapters(spec, lora)
    return {
        "weights (fp32)": 4 * count(spec),
        "matrices beside the adapters (fp32)": 4 * sum(each.matrix.size for each in found),
        "adapters, gradients, two moments (fp32)": 16 * sum(e.a.size + e.b.size for e in found),
    }


def _matrices(spec: ModelSpec) -> int:
    """Elements of the matrices of all layers."""
    return sum(p.size for p in parameters(spec) if p.layer is not None and p.decays)


def shapes_alone(spec: ModelSpec, norm_backward: bool) -> Constants:
    """The weights of a layer as arrays that take no memory."""
    first = (parameter for parameter in parameters(spec) if parameter.layer == 0)
    values = {p.name.split(".")[-1]: _shape_alone(*p.shape) for p in first}
    return Constants(values, norm_backward=norm_backward)


def _shape_alone(*shape: int) -> npt.NDArray[np.float32]:
    return np.broadcast_to(np.zeros((), np.float32), shape)


def head_programs(spec: ModelSpec, shape: LayerShape, most: int) -> list[LayerProgram]:
    """Those of the head on the engine, of every part of the vocabulary for `most` channels."""
    norm = _shape_alone(spec.dim)
    programs = [final_norm_backward(shape, Constants({"norm": norm}))]
    for rows in split_vocabulary(spec.vocabulary, spec.dim, most):
        matrix = _shape_alone(len(rows), spec.dim)
        part = classifier(shape, Constants({"norm": norm, "classifier": matrix}))
        programs += [part, softmax(part.output)]
    return programs


def _surfaces(program: LayerProgram) -> int:
    """Elements of a head program's own surfaces: the softmax reads the classifier's output."""
    shared = program.name == "softmax"
    return program.output.elements + (0 if shared else program.input.elements)


def _filed(program: LayerProgram) -> Iterator[Value]:
    return (value for value in program.program.constants if value.file is not None)


def _outputs(programs: Mapping[str, LayerProgram], layers: int) -> int:
    """One of each program, with what each layer keeps of the forward ones."""
    elements = 0
    for kind in KINDS:
        forward = programs[f"{kind.name}_forward"].output
        kept = (forward[name] for name in kept_blocks(kind, forward))
        elements += forward.elements + layers * sum(each.rows * each.columns for each in kept)
        elements += programs[f"{kind.name}_backward"].output.elements
    return elements


def available() -> int:
    """Bytes that can be used without swapping, as the system and its control group say."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in rows:
            limits.append(int(rows["MemAvailable"].split()[0]) * 1024)
    limits.extend(_group_limits())
    return min(limits)


def _group_limits() -> list[int]:
    """What the control group leaves, for containers."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(rows["inactive_file"])  # file pages that the kernel gives back when asked
    except (OSError, ValueError, KeyError):
        return []
    return [max(0, int(limit) - used)] if limit.isdigit() else []
