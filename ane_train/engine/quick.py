"""Whether the Neural Engine here can be used at all, found out in under two seconds.

The context that is checked is the one that then works, so that what the check compiles counts in
one budget. That it holds is remembered in the profile; so is that it ended the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ane_train import mil
from ane_train.engine.device import HARDWARE, Device, look
from ane_train.engine.options import EngineOptions
from ane_train.engine.profile import Profile, read_profile, write_profile
from ane_train.native.engine import Array, Context
from ane_train.native.library import NativeError

HOLDS = "holds"
_PID = "pid "
_SIZE = 64


@dataclass(frozen=True, slots=True)
class Opened:
    """The Neural Engine, open and checked, or None; why; and the profile that was found."""

    context: Context | None
    reason: str
    profile: Profile | None = None


def open_hardware(options: EngineOptions, *, insist: bool = False, fresh: bool = False) -> Opened:
    """Opens the ANE if it is there, as this version knows it, and right in two small programs.

    `insist` tries also where the last check ended its process; `fresh` checks even if it held
    before.
    """
    folder = options.profiles
    device = look(options.driver)
    if device.problem:
        return Opened(None, device.problem)
    profile, note = (None, "") if folder is None else read_profile(folder)
    if profile is not None and _died(profile) and not (insist or fresh):
        return Opened(None, "the last check of the ANE ended its process: run `ane-train doctor`")
    try:
        context = Context(
            threads=options.threads,
            compile_limit=options.compile_limit,
            load_limit=options.load_limit,
            engine=HARDWARE,
            dispatch=options.dispatch or _dispatch(profile),
            driver=options.driver or "auto",
        )
    except NativeError as error:
        return Opened(None, str(error))
    held = profile is not None and profile.quick == HOLDS and not fresh
    problem = "" if held else _checked(context, profile, folder)
    if problem:
        context.close()
        return Opened(None, problem)
    words = f"{_name(device)} found, two small programs are right{' (checked before)' * held}"
    return Opened(context, f"{words}; {note}" if note else words, profile)


def _checked(context: Context, profile: Profile | None, folder: Path | None) -> str:
    """Checks between two notes in the profile, so that a crash in between is known afterwards."""
    _note(profile, folder, f"{_PID}{os.getpid()}")
    problem = check(context)
    _note(profile, folder, "" if problem else HOLDS)
    return problem


def _note(profile: Profile | None, folder: Path | None, quick: str) -> None:
    if profile is None or folder is None:
        return
    try:
        write_profile(folder, replace(profile, quick=quick))
    except OSError:
        return  # a profile that cannot be kept costs a check each time


def _died(profile: Profile) -> bool:
    number = profile.quick.removeprefix(_PID)
    if number == profile.quick or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _dispatch(profile: Profile | None) -> str:
    return profile.measured.dispatch if profile and profile.measured else "queue"


def _name(device: Device) -> str:
    kind = device.facts.get("architecture", "")
    return f"ANE {kind}".strip()


def check(context: Context) -> str:
    """What is wrong with two small programs, whose results fp16 holds exactly; "" if nothing is."""
    for name, build, expected in _PROGRAMS:
        b = mil.Builder()
        x = b.input("x", (1, 2 * _SIZE, 1, _SIZE))
        program = b.build([build(b, x)])
        values = np.random.default_rng(7).integers(-4, 5, (2 * _SIZE, _SIZE)).astype(np.float32)
        try:
            got = _evaluated(context, program, values)
        except NativeError as error:
            return f"a small program ({name}) fails on the ANE: {error}"
        if not np.array_equal(got, expected(values)):
            return f"a small program ({name}) gives wrong numbers on the ANE"
    return ""


def _evaluated(context: Context, program: mil.Program, values: Array) -> Array:
    compiled = context.compile(mil.print_program(program), program.weight_files())
    source = context.surface(2 * _SIZE, _SIZE, 2)
    target = context.surface(_SIZE, _SIZE, 2)
    source.write(values)
    try:
        request = compiled.request([source], [target])
        request.evaluate()
        found = target.read()
        request.close()
        return found
    finally:
        for item in (compiled, source, target):
            item.close()


def _halves(b: mil.Builder, x: mil.Value) -> tuple[mil.Value, mil.Value]:
    size = (1, _SIZE, 1, _SIZE)
    return b.slice_by_size(x, (0, 0, 0, 0), size), b.slice_by_size(x, (0, _SIZE, 0, 0), size)


def _arithmetic(b: mil.Builder, x: mil.Value) -> mil.Value:
    first, second = _halves(b, x)
    return b.sub(b.mul(first, 2.0), b.add(second, 1.0))


def _product(b: mil.Builder, x: mil.Value) -> mil.Value:
    first, second = (b.reshape(half, (1, 1, _SIZE, _SIZE)) for half in _halves(b, x))
    return b.reshape(b.matmul(first, second, transpose_x=True), (1, _SIZE, 1, _SIZE))


def _arithmetic_result(x: Array) -> Array:
    return np.asarray(2 * x[:_SIZE] - (x[_SIZE:] + 1))


def _product_result(x: Array) -> Array:
    return np.asarray(x[:_SIZE].T @ x[_SIZE:])


_Build = Callable[[mil.Builder, mil.Value], mil.Value]
_PROGRAMS: tuple[tuple[str, _Build, Callable[[Array], Array]], ...] = (
    ("arithmetic", _arithmetic, _arithmetic_result),
    ("matrix product", _product, _product_result),
)
