"""Runs `ane-train doctor` as a user would, in a home of its own, and reads its report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from runs import command, environment

HOME = "home-of-somebody"
PROFILE = Path(HOME, ".cache", "ane-train", "ane-profile.json")
Done = subprocess.CompletedProcess[str]


def variables(folder: Path, **others: str) -> dict[str, str]:
    """The environment of a process whose home and temporary files are in `folder`."""
    home = folder / HOME
    home.mkdir(exist_ok=True)
    return environment(**({"HOME": str(home), "TMPDIR": str(folder)} | others))


def doctor(folder: Path, *arguments: object, **others: str) -> Done:
    """Runs the command in `folder` to its end, with these variables of the environment besides."""
    return subprocess.run(
        command("doctor", *arguments),
        cwd=folder,
        env=variables(folder, **others),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def reported(folder: Path, *arguments: object, **others: str) -> tuple[Done, dict[str, Any]]:
    """The command, and the report that it wrote into `folder`."""
    done = doctor(folder, *arguments, "--json", "report.json", **others)
    return done, json.loads((folder / "report.json").read_text())


def verdicts(report: dict[str, Any], group: str) -> dict[str, str]:
    """By the names of the cases."""
    return {case["name"]: case["verdict"] for case in report["cases"] if case["group"] == group}
