"""Whether an engine takes over a program's compiled form with other weights, as it has to.

Published reports differ by form and system: some say that the old weights stay without a word.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from ane_train import mil
from ane_train.native.engine import Context, Program
from ane_train.native.library import NativeError

_SIZE = 64


def check_delta(context: Context) -> str:
    """What is wrong with one small program whose weights are replaced; "" if nothing is.

    Compiles one program and loads two. Integers that fp16 holds exactly leave no doubt.
    """
    random = np.random.default_rng(11)
    weights, others, values = (
        random.integers(-3, 4, (_SIZE, _SIZE)).astype(np.float32) for _ in range(3)
    )
    try:
        first, second = _both(context, weights, others, values)
    except NativeError as error:
        return str(error)
    if not np.array_equal(first, weights @ values):
        return "a program computes wrongly before its weights are replaced"
    if np.array_equal(second, first):
        return "a program goes on with its old weights"
    return "" if np.array_equal(second, others @ values) else "a program computes wrongly"


def _both(
    context: Context,
    weights: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
) -> list[npt.NDArray[np.float32]]:
    """What the program gives with its first weights, and then with the others."""
    matrix = np.empty((_SIZE, _SIZE, 1, 1), np.float32)
    b = mil.Builder(file="weights")
    x = b.input("x", (1, _SIZE, 1, _SIZE))
    program = b.build([b.conv(x, b.constant(matrix, "fp16"))])
    text, donor = mil.print_program(program), None
    precision = "fp32" if context.options.numerics == "fp32" else "fp16"
    results = []
    with ExitStack() as stack:
        for each in (weights, others):
            matrix[:, :, 0, 0] = each
            donor = context.compile(text, program.weight_files(precision), donor=donor)
            stack.callback(donor.close)
            results.append(_evaluated(context, donor, values))
    return results


def _evaluated(
    context: Context, program: Program, values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
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
