"""A finished MIL program: one function of ops, in an order that makes every value before its use.

Constants are no ops here: they are values with data, and whoever walks the ops meets them at their
first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .types import Value
from .weights import WeightFile, group_files


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One statement. A variadic argument (concat's `values`) is a tuple of values."""

    kind: str
    name: str
    arguments: Mapping[str, Value | tuple[Value, ...]]
    outputs: tuple[Value, ...]

    @property
    def operands(self) -> tuple[Value, ...]:
        """All argument values, in the order of the sorted argument names."""
        return tuple(value for _, values in self.sorted_arguments() for value in values)

    def sorted_arguments(self) -> Iterator[tuple[str, tuple[Value, ...]]]:
        """Argument names, sorted, each with its value or values as a tuple."""
        for name in sorted(self.arguments):
            value = self.arguments[name]
            yield name, value if isinstance(value, tuple) else (value,)

    def constant(self, name: str) -> Value | None:
        """The constant bound to an argument; None where it is absent or computed."""
        value = self.arguments.get(name)
        return value if isinstance(value, Value) and value.is_constant else None


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A function with its opset ("ios18" or "ios16"): inputs, ops and outputs."""

    function: str
    opset: str
    inputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Value, ...]

    @property
    def constants(self) -> tuple[Value, ...]:
        """Every constant that an op reads, once, in the order of first use."""
        used = (value for op in self.ops for value in op.operands)
        return tuple(dict.fromkeys(value for value in used if value.is_constant))

    @property
    def files(self) -> list[WeightFile]:
        """The weight files that the text's BLOBFILE constants name."""
        return group_files(self.constants)

    def weight_files(self, precision: str = "fp16") -> dict[str, bytes]:
        """Path to contents of each weight file.

        precision "fp32" writes fp32 records for constants declared fp16, which only the software
        engine in fp32 numerics reads; print the text with the same precision.
        """
        return {file.path: file.encode(precision) for file in self.files}
