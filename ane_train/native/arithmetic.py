"""Training arithmetic of the C core on NumPy arrays, in place and without copies.

Every array is C-contiguous and float32 (tokens and targets: int32); anything else is a ValueError.
Rows of the matrices of `gemm` may lie apart.
Activations are channel-first, [D, S]. The bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np

from ane_train.native.library import address, check, ffi, lib

if TYPE_CHECKING:
    from ane_train.native.engine import Context, Surface

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class AdamWOptions(TypedDict):
    """Of one update: gradients are multiplied by gradient_scale first; step counts from 1."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    gradient_scale: float
    step: int


class Stretch(NamedTuple):
    """Elements [begin, end) of flat arrays, and whether weight decay acts on them."""

    begin: int
    end: int
    decays: bool


def gemm(
    context: Context,
    a: Array,
    b: Array,
    out: Array,
    transpose_a: bool = False,
    transpose_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> None:
    """out [M, N] = alpha * op(a) op(b) + beta * out, where op transposes if its flag is set."""
    m, k = _matrix("a", a, transpose_a)
    inner, n = _matrix("b", b, transpose_b)
    if inner != k:
        raise ValueError(f"gemm: inner sizes {k} and {inner} differ")
    left, right = _rows("a", a, a.shape), _rows("b", b, b.shape)
    product = _rows("out", out, (m, n), written=True)
    status = lib.ane_gemm(
        context._pointer, transpose_a, transpose_b, m, n, k, alpha, *left, *right, beta, *product
    )
    check(context._pointer, status)


class Rectangle(Protocol):
    """Rows [row, row + rows) of columns [column, column + columns) of a surface."""

    @property
    def row(self) -> int:
        """The first one."""
        ...

    @property
    def column(self) -> int:
        """The first one."""
        ...

    @property
    def rows(self) -> int:
        """How many."""
        ...

    @property
    def columns(self) -> int:
        """How many."""
        ...


def outer_product(
    left: tuple[Surface, Rectangle], right: tuple[Surface, Rectangle], out: Array
) -> None:
    """out [M, N] += left right^T of blocks of surfaces, left [M, K] and right [N, K]."""
    blocks = []
    for surface, at in (left, right):
        place = (surface._pointer, at.row, at.column, at.rows, at.columns)
        blocks.append(ffi.new("ane_block *", place))
    shape = (left[1].rows, right[1].rows)
    product = _floats("out", out, shape, written=True)
    check(left[0]._context, lib.ane_outer_product(*blocks, product, shape[1]))


def matvec(
    context: Context, stored: Array, vector: Array, result: Array, scales: Array | None = None
) -> None:
    """result [M] = stored [M, N] vector of a float16 matrix, or int8 with a scale for each row.

    The matrix is read as it is. With int8, vectors count as 16-bit integers, 256 to a scale.
    """
    rows, columns = _matrix("stored", stored)
    x = _floats("vector", vector, (columns,))
    y = _floats("result", result, (rows,), written=True)
    dtype = np.dtype(np.float16 if scales is None else np.int8)
    matrix = _checked("stored", stored, (rows, columns), dtype, False)
    if scales is None:
        status = lib.ane_matvec_fp16(context._pointer, rows, columns, matrix, x, y)
    else:
        factors = _floats("scales", scales, (rows,))
        status = lib.ane_matvec_int8(context._pointer, rows, columns, matrix, factors, x, y)
    check(context._pointer, status)


def embedding_forward(context: Context, table: Array, tokens: Array, x: Array) -> None:
    """x [D, S] = columns table[tokens[s], :] of a table [V, D]; EngineError outside [0, V)."""
    vocabulary, dim = _matrix("table", table)
    (sequence,) = _vector("tokens", tokens)
    status = lib.ane_embedding_forward(
        context._pointer, vocabulary, dim, sequence,
        _floats("table", table, (vocabulary, dim)),
        _integers("tokens", tokens, (sequence,)),
        _floats("x", x, (dim, sequence), written=True),
    )  # fmt: skip
    check(context._pointer, status)


def embedding_backward(context: Context, dx: Array, tokens: Array, table_gradient: Array) -> None:
    """table_gradient [V, D] at tokens[s] += dx [D, S] at column s, in the order of s."""
    vocabulary, dim = _matrix("table_gradient", table_gradient)
    (sequence,) = _vector("tokens", tokens)
    status = lib.ane_embedding_backward(
        context._pointer, vocabulary, dim, sequence,
        _floats("dx", dx, (dim, sequence)),
        _integers("tokens", tokens, (sequence,)),
        _floats("table_gradient", table_gradient, (vocabulary, dim), written=True),
    )  # fmt: skip
    check(context._pointer, status)


def rmsnorm_forward(
    context: Context, x: Array, gamma: Array, epsilon: float, y: Array, inverse_rms: Array
) -> None:
    """y [D, S] = x * inverse_rms [S] * gamma [D], inverse_rms = 1 / sqrt(mean_d x^2 + epsilon)."""
    dim, sequence = _matrix("x", x)
    status = lib.ane_rmsnorm_forward(
        context._pointer, dim, sequence, epsilon,
        _floats("x", x, (dim, sequence)),
        _floats("gamma", gamma, (dim,)),
        _floats("y", y, (dim, sequence), written=True),
        _floats("inverse_rms", inverse_rms, (sequence,), written=True),
    )  # fmt: skip
    check(context._pointer, status)


def rmsnorm_backward(
    context: Context,
    x: Array,
    gamma: Array,
    inverse_rms: Array,
    dy: Array,
    dx: Array,
    dgamma: Array,
) -> None:
    """Adds the gradients to dx [D, S] and dgamma [D]; inverse_rms is the forward pass's."""
    dim, sequence = _matrix("x", x)
    status = lib.ane_rmsnorm_backward(
        context._pointer, dim, sequence,
        _floats("x", x, (dim, sequence)),
        _floats("gamma", gamma, (dim,)),
        _floats("inverse_rms", inverse_rms, (sequence,)),
        _floats("dy", dy, (dim, sequence)),
        _floats("dx", dx, (dim, sequence), written=True),
        _floats("dgamma", dgamma, (dim,), written=True),
    )  # fmt: skip
    check(context._pointer, status)


def cross_entropy(
    context: Context, logits: Array, targets: Array, scale: float, losses: Array
) -> None:
    """losses [P], in nats, of logits [P, V], which become (softmax - one_hot) * scale.

    A target of -1 is masked: loss and gradient 0. A scale of 0 leaves the logits as they are.
    """
    positions, vocabulary = _matrix("logits", logits)
    status = lib.ane_cross_entropy(
        context._pointer, positions, vocabulary,
        _floats("logits", logits, (positions, vocabulary), written=True),
        _integers("targets", targets, (positions,)),
        scale,
        _floats("losses", losses, (positions,), written=True),
    )  # fmt: skip
    check(context._pointer, status)


def axpy(context: Context, alpha: float, x: Array, y: Array) -> None:
    """y += alpha * x, for arrays of one shape."""
    source, target = _floats("x", x, x.shape), _floats("y", y, x.shape, written=True)
    check(context._pointer, lib.ane_axpy(context._pointer, x.size, alpha, source, target))


def sum_squares(context: Context, x: Array) -> float:
    """The sum of squares in double, in a fixed order; not finite if any element is not."""
    total = ffi.new("double *")
    status = lib.ane_sum_squares(context._pointer, x.size, _floats("x", x, x.shape), total)
    check(context._pointer, status)
    return float(total[0])


def adamw(
    context: Context,
    weight: Array,
    gradient: Array,
    first_moment: Array,
    second_moment: Array,
    *,
    stretches: Sequence[Stretch] | None = None,
    **options: Unpack[AdamWOptions],
) -> None:
    """Updates the weight and both moments in place, as torch.optim.AdamW does.

    In its order of operations but for one division, which is a product by the inverse and may
    differ in the last bit. Of flat arrays that hold many parameters, `stretches` names those that
    change, in rising order; without it all elements of arrays of any shape change, and decay.
    """
    wrong = AdamWOptions.__required_keys__ ^ options.keys()
    if wrong:
        raise TypeError(f"adamw: missing or unknown: {', '.join(sorted(wrong))}")
    if stretches is None:
        stretches = [Stretch(0, weight.size, True)]
    if stretches and stretches[-1].end > weight.size:
        raise ValueError(f"{stretches[-1]} ends beyond the {weight.size} elements of weight")
    shape = weight.shape
    status = lib.ane_adamw(
        context._pointer, ffi.new("ane_adamw_options *", options),
        len(stretches), ffi.new("ane_stretch[]", list(stretches)),
        _floats("weight", weight, shape, written=True),
        _floats("gradient", gradient, shape),
        _floats("first_moment", first_moment, shape, written=True),
        _floats("second_moment", second_moment, shape, written=True),
    )  # fmt: skip
    check(context._pointer, status)


def _matrix(name: str, array: Array, transposed: bool = False) -> tuple[int, int]:
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}, not two dimensions")
    rows, columns = array.shape
    return (columns, rows) if transposed else (rows, columns)


def _vector(name: str, array: Array) -> tuple[int]:
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, not one dimension")
    return (array.size,)


def _floats(name: str, array: Array, shape: Shape, *, written: bool = False) -> Any:
    return _checked(name, array, shape, np.dtype(np.float32), written)


def _rows(name: str, array: Array, shape: Shape, *, written: bool = False) -> tuple[Any, int]:
    """The address of a matrix, and from each row to the next, in elements."""
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, not {shape}")
    rows, columns = shape
    first = _floats(name, array[:1], (min(rows, 1), columns), written=written)
    apart, rest = divmod(array.strides[0], array.itemsize) if rows > 1 else (columns, 0)
    if rest or apart < columns:
        raise ValueError(f"{name} has rows that are not C-contiguous floats")
    return first, apart


def _integers(name: str, array: Array, shape: Shape) -> Any:
    return _checked(name, array, shape, np.dtype(np.int32), False)


def _checked(name: str, array: Array, shape: Shape, dtype: np.dtype[Any], written: bool) -> Any:
    """The address of an array after every check that makes it safe to hand to C."""
    if array.dtype != dtype:
        raise ValueError(f"{name} has dtype {array.dtype}, not {dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, not {shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not C-contiguous")
    if written and not array.flags.writeable:
        raise ValueError(f"{name} is read-only but would be written")
    return address(array, dtype)
