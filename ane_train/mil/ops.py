"""The one table of ops: name, parameters, type rule. A new op is a row here and a rule in `infer`.

The rows and their parameters are those of the software engine's table (csrc/cpu/ops.def).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from . import infer
from .infer import Arguments, TypeRuleError
from .types import FLOATS, TensorType, Value

BYTES = ("int8", "uint8")
NUMBERS = (*FLOATS, "int32")
ANY = (*NUMBERS, "bool", *BYTES, "int16", "uint16")

# Kinds of parameters: the dtypes that one accepts, by the word that a row writes after the colon.
TENSOR_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "any": ANY,
        "float": FLOATS,
        "number": NUMBERS,
        "index": ("int32", "int16", "uint16", *BYTES),
        "byte": BYTES,
        "bool": ("bool",),
    }
)
# Those that only constants may be bound to: dtypes, and the rank (None: any).
CONSTANT_KINDS: Mapping[str, tuple[tuple[str, ...], int | None]] = MappingProxyType(
    {
        "int": (("int32",), 0),
        "ints": (("int32",), 1),
        "flag": (("bool",), 0),
        "flags": (("bool",), 1),
        "word": (("string",), 0),
        "scalar": (FLOATS, 0),
        "weights": (FLOATS, None),
        "bytes": (BYTES, None),
        "zero": ((*BYTES, "fp32"), None),
    }
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named parameter of an op."""

    name: str
    kind: str
    optional: bool
    variadic: bool

    @property
    def is_constant(self) -> bool:
        """Whether only a constant may be bound to it."""
        return self.kind in CONSTANT_KINDS

    def accepts(self, value: Value) -> bool:
        """Whether the value has the dtype, and a constant the rank, that the kind asks for."""
        if not self.is_constant:
            return value.dtype in TENSOR_KINDS[self.kind]
        dtypes, rank = CONSTANT_KINDS[self.kind]
        return value.is_constant and value.dtype in dtypes and rank in (None, value.type.rank)


@dataclass(frozen=True, slots=True)
class OpRow:
    """One op of the table.

    since: first opset that has it.
    attributes: whether its arguments are printed inside the trailing brackets.
    """

    parameters: tuple[Parameter, ...]
    rule: Callable[[Arguments], infer.Types]
    since: str = "ios16"
    attributes: bool = False


def _row(
    parameters: str,
    rule: Callable[[Arguments], infer.Types],
    since: str = "ios16",
    attributes: bool = False,
) -> OpRow:
    """A row of "name:kind" words, with ? for optional and * for variadic parameters."""
    parsed = []
    for word in parameters.split():
        name, kind = word.rstrip("?*").split(":")
        parsed.append(Parameter(name, kind, word.endswith("?"), word.endswith("*")))
    return OpRow(tuple(parsed), rule, since, attributes)


def _unary() -> OpRow:
    return _row("x:float", infer.float_unary)


def _binary(kind: str = "number") -> OpRow:
    return _row(f"x:{kind} y:{kind}", infer.broadcast)


def _reduction() -> OpRow:
    return _row("x:number axes:ints? keep_dims:flag?", infer.reduce)


OPS: Mapping[str, OpRow] = MappingProxyType(
    {
        "cast": _row("x:any dtype:word", infer.cast),
        "identity": _row("x:any", infer.same),
        "add": _binary(),
        "sub": _binary(),
        "mul": _binary(),
        "real_div": _binary("float"),
        "maximum": _binary(),
        "minimum": _binary(),
        "pow": _binary("float"),
        "sigmoid": _unary(),
        "silu": _unary(),
        "tanh": _unary(),
        "relu": _unary(),
        "exp": _unary(),
        "log": _row("x:float epsilon:scalar?", infer.float_unary),
        "sqrt": _unary(),
        "rsqrt": _row("x:float epsilon:scalar?", infer.float_unary),
        "square": _unary(),
        "matmul": _row("x:float y:float transpose_x:flag? transpose_y:flag?", infer.matmul),
        "conv": _row(
            "x:float weight:float bias:weights? strides:ints? pad_type:word? pad:ints? "
            "dilations:ints? groups:int?",
            infer.conv,
        ),
        "reshape": _row("x:any shape:ints", infer.reshape),
        "transpose": _row("x:any perm:ints", infer.transpose),
        "slice_by_size": _row("x:any begin:ints size:ints", infer.slice_by_size),
        "slice_by_index": _row(
            "x:any begin:ints end:ints stride:ints? begin_mask:flags? end_mask:flags? "
            "squeeze_mask:flags?",
            infer.slice_by_index,
        ),
        "concat": _row("values:any* axis:int interleave:flag?", infer.concat),
        "split": _row("x:any num_splits:int? split_sizes:ints? axis:int", infer.split),
        "expand_dims": _row("x:any axes:ints", infer.expand_dims),
        "squeeze": _row("x:any axes:ints?", infer.squeeze),
        "softmax": _row("x:float axis:int?", infer.softmax),
        "reduce_sum": _reduction(),
        "reduce_mean": _reduction(),
        "reduce_max": _reduction(),
        "layer_norm": _row(
            "x:float axes:ints? gamma:weights? beta:weights? epsilon:scalar?", infer.layer_norm
        ),
        "gather": _row(
            "x:any indices:index axis:int? batch_dims:int? validate_indices:flag?", infer.gather
        ),
        "select": _row("cond:bool a:any b:any", infer.select),
        "quantize": _row(
            "input:float scale:weights zero_point:bytes? axis:int? output_dtype:word",
            infer.quantize,
            since="ios18",
        ),
        "dequantize": _row(
            "input:byte scale:weights zero_point:bytes? axis:int?", infer.dequantize, since="ios18"
        ),
        "constexpr_affine_dequantize": _row(
            "quantized_data:bytes zero_point:zero scale:weights axis:int",
            infer.affine_dequantize,
            attributes=True,
        ),
    }
)


def infer_types(
    kind: str, arguments: Mapping[str, Value | tuple[Value, ...]], opset: str
) -> tuple[TensorType, ...]:
    """Types of the op's outputs; TypeRuleError where op, arguments or opset do not fit."""
    row = OPS.get(kind)
    if row is None:
        raise TypeRuleError(f"there is no op {kind!r} in the table")
    if row.since > opset:
        raise TypeRuleError(f"{kind} needs {row.since}, the program is {opset}")
    _check_parameters(row, arguments)
    types = row.rule(Arguments(arguments))
    if any(type_.rank > 5 for type_ in types):
        raise TypeRuleError(f"rank {types[0].rank} is above 5")
    return types


def _check_parameters(row: OpRow, arguments: Mapping[str, Value | tuple[Value, ...]]) -> None:
    known = {parameter.name for parameter in row.parameters}
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise TypeRuleError(f"no parameter is called {unknown[0]!r}")
    for parameter in row.parameters:
        value = arguments.get(parameter.name)
        if value is None:
            if not parameter.optional:
                raise TypeRuleError(f"parameter {parameter.name!r} is missing")
        elif isinstance(value, tuple) and not parameter.variadic:
            raise TypeRuleError(f"parameter {parameter.name!r} takes one value")
        else:
            _check_values(parameter, value if isinstance(value, tuple) else (value,))


def _check_values(parameter: Parameter, values: tuple[Value, ...]) -> None:
    for value in values:
        if not parameter.accepts(value):
            what = "a constant of kind" if parameter.is_constant else "a tensor of kind"
            raise TypeRuleError(
                f"parameter {parameter.name!r} takes {what} {parameter.kind!r}, "
                f"not {value.name!r} of type {value.type}"
            )


def constant_data(dtype: str, data: object) -> np.ndarray | str:
    """Data of a constant as a program keeps it: text, or a read-only array of the dtype's class.

    Floats stay float32 or float64 as given, anything else becomes the declared integer or bool
    type; ValueError for values that this would change.
    """
    if dtype == "string":
        if not isinstance(data, str):
            raise ValueError(f"a string constant takes text, not {type(data).__name__}")
        return data
    given = np.asarray(data)
    if dtype in FLOATS:
        array = given if given.dtype in (np.float32, np.float64) else given.astype(np.float64)
    else:
        array = given.astype(dtype)
        if given.dtype.kind not in "iub" or not np.array_equal(array, given):
            raise ValueError(f"constant {data!r} is not of type {dtype}")
    view = array.view()
    view.flags.writeable = False
    return view
