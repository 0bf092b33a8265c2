"""Every function of ane.h tolerates NULL: found through cffi, called in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from compiled import ROOT

from ane_train.native.library import lib

FUNCTIONS = [name for name in dir(lib) if name.startswith("ane_")]
# Pointers that ane.h says may be NULL.
OPTIONAL = {
    ("ane_context_open", "2"),
    ("ane_engine_describe", "2"),
    ("ane_engine_explore", "2"),
    ("ane_program_compile", "5"),
    *(("ane_program_cost", index) for index in "123"),
}
# What the software engine answers to a call with nothing missing, where that is not "ok".
REFUSED = {"ane_engine_explore": "missing"}
Results = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def results() -> Results:
    """By function, then by which of its pointers were NULL; a crash ends in the call's name."""
    child = [sys.executable, str(ROOT / "tests" / "null_calls.py")]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(child, env=os.environ | {"PYTHONPATH": paths}, capture_output=True,
                          text=True, check=False)  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"in {lines[-1:]}: {done.stderr}"
    found: Results = {name: {} for name in FUNCTIONS}
    for line in lines:
        call, result = line.split("\t")
        name, what = call.split(" ")
        found[name][what] = result
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_given_nothing_but_null_has_nothing_to_give(name: str, results: Results) -> None:
    if name.endswith("_free"):
        assert results[name] == {"all": "void"}
    assert results[name]["all"] in ("argument", "0", "NULL", "void")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_missing_pointer_is_an_argument_error_unless_it_is_optional(
    name: str, results: Results
) -> None:
    valid = REFUSED.get(name, "ok")
    assert results[name].get("none", valid) in (valid, "void"), "the valid call itself fails"
    for what, result in results[name].items():
        if what.isdecimal():
            expected = valid if (name, what) in OPTIONAL else "argument"
            assert result in (expected, "void"), what
