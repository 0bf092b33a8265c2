"""Whether an engine takes over a program's compiled form with other weights, as it has to.

The form that is published to work (Orion) is a new program of equal text that takes a donor's
compiled form; other reports say that old weights stay without a word.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from ane_train import mil
from ane_train.native.engine import Context, Program
from ane_train.native.library import NativeError

Array = npt.NDArray[np.float32]
_SIZE = 64
_ROUNDS = 3  # the second donor is itself made from one


def check_delta(context: Context) -> str:
    """What is wrong with a small program whose two constants are replaced; "" if nothing is.

    Compiles one program and loads three. Whole numbers that fp16 holds exactly leave no doubt.
    """
    random = np.random.default_rng(11)
    values = _whole(random, -4, 5, (_SIZE, _SIZE))
    donor: Program | None = None
    former: Array | None = None
    try:
        with ExitStack() as stack:
            for _ in range(_ROUNDS):
                matrix, gain = _whole(random, -1, 2, (_SIZE, _SIZE)), _whole(random, 1, 5, (_SIZE,))
                donor = _compiled(context, matrix, gain, donor)
                stack.callback(donor.close)
                found, right = _evaluated(context, donor, values), gain[:, None] * (matrix @ values)
                problem = _difference(found, right, former)
                if problem:
                    return problem
                former = right
    except NativeError as error:
        return str(error)
    return ""


def _whole(random: np.random.Generator, low: int, high: int, shape: tuple[int, ...]) -> Array:
    return random.integers(low, high, shape).astype(np.float32)


def _difference(found: Array, right: Array, former: Array | None) -> str:
    if np.array_equal(found, right):
        return ""
    if former is None:
        return "a program computes wrongly before its weights are replaced"
    if np.array_equal(found, former):
        return "a program goes on with its old weights"
    return "a program computes wrongly once its weights are replaced"


def _compiled(context: Context, matrix: Array, gain: Array, donor: Program | None) -> Program:
    """gain * (matrix x), with both constants in one file."""
    b = mil.Builder(file="weights")
    x = b.input("x", (1, _SIZE, 1, _SIZE))
    product = b.conv(x, b.constant(matrix[:, :, None, None], "fp16"))
    program = b.build([b.mul(product, b.constant(gain.reshape(1, _SIZE, 1, 1), "fp16"))])
    precision = "fp32" if context.options.numerics == "fp32" else "fp16"
    text = mil.print_program(program, precision)
    return context.compile(text, program.weight_files(precision), donor=donor)


def _evaluated(context: Context, program: Program, values: Array) -> Array:
    size = 4 if context.options.numerics == "fp32" else 2
    with ExitStack() as stack:
        surfaces = [context.surface(_SIZE, _SIZE, size) for _ in range(2)]
        for surface in surfaces:
            stack.callback(surface.close)
        surfaces[0].write(values)
        request = program.request(surfaces[:1], surfaces[1:])
        stack.callback(request.close)
        request.evaluate()
        return surfaces[1].read()
