"""The C core under sanitizers: random programs and misuse, driven through the C API."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled import compile_c, core, run_driver
from test_chains import KINDS
from test_chains import program as chain
from test_heads import SHAPES, heads_program
from test_ops import TABLE, case_text
from test_reference_twin import random_program

SANITIZERS = {
    "memory": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-O1", "-fsanitize=thread"],
}


def program_files(folder: Path) -> list[str]:
    """Random programs, one case of each op, and heads of attention."""
    cases = {case.op: case for case in TABLE}
    texts = [random_program(seed)[0] for seed in range(25)]
    texts += [case_text(case, set(case.constant))[0] for case in cases.values()]
    texts += [chain(kind) for kind in KINDS]
    texts += [heads_program(*shape)[0] for shape in SHAPES[:-1]]
    paths = []
    for index, text in enumerate(texts):
        path = folder / f"{index}.mil"
        path.write_text(text)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("kind", SANITIZERS)
def test_the_engine_survives_programs_and_misuse_under_sanitizers(
    kind: str, tmp_path: Path
) -> None:
    flags = ["-D_GNU_SOURCE", *SANITIZERS[kind]]
    driver = compile_c(tmp_path / "driver", "engine_driver.c", core("base", "cpu", "engine"), flags)
    assert run_driver(driver, *program_files(tmp_path)) == ""
