"""Imports run downwards only, so that each package can be read without those above it."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ane_train"
# Each may import those before it, and nothing else of the package.
ORDER = [
    *("errors", "threads", "records", "isolation", "_build", "_native", "native"),
    *("config_values", "config_rules", "config", "config_text"),
    *("mil", "programs", "model", "plan", "engine", "data", "metrics", "storage"),
    *("interop", "doctor", "explore", "generate", "lm_eval", "train", "chip", "cli", "__main__"),
]


def imported(path: Path) -> Iterator[str]:
    """The parts of the package that a module imports when it runs, not those for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        module = node.module or ""
        if module == "ane_train":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif module.startswith("ane_train."):
            yield module.split(".")[1]


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_part_of_the_package_has_its_place() -> None:
    assert {part(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_part_imports_only_what_is_below_it(name: str) -> None:
    below = set(ORDER[: ORDER.index(name)])
    for path in PACKAGE.rglob("*.py"):
        if part(path) == name:
            assert set(imported(path)) - {name} <= below, path


def test_only_native_knows_the_compiled_core() -> None:
    users = {part(path) for path in PACKAGE.rglob("*.py") if "_native" in set(imported(path))}
    assert users == {"native"}


def test_every_package_is_installed() -> None:
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {".".join(p.parent.relative_to(root).parts) for p in PACKAGE.rglob("__init__.py")}
    assert there <= listed
