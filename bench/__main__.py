"""`python -m bench [NAME...]`: runs measures one after the other, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.machine import libraries, load, machine, versions
from bench.measures import MEASURES
from bench.report import SCHEMA, case_ratios, heading, markdown
from bench.worker import ROOT, clean_environment


def main() -> int:
    """Measures, writes the file anew after each measure, prints the tables; 1 if one failed."""
    arguments = _arguments()
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": machine(),
        "versions": versions(),
        "libraries": libraries(),
        "load": [load()],
        "measures": {},
    }
    for name in arguments.names or [name for name, each in MEASURES.items() if each.is_default]:
        print(f"{MEASURES[name].title} ({name}) ...", file=sys.stderr, flush=True)
        report["measures"][name] = _measured(name, arguments.rounds)
        report["load"].append(load())
        report["ratios"] = case_ratios(report["measures"])
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{heading(report)}\n{markdown(report['measures'])}")
    return int(any("error" in each for each in report["measures"].values()))


def _arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {name:24}{each.title}" for name, each in MEASURES.items())
    parser = argparse.ArgumentParser(
        "python -m bench",
        description=f"Measures; without names all but the last:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*MEASURES, []])
    parser.add_argument("--json", type=Path, default=ROOT / "bench.json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=0, help="of each measure; 0: by its time")
    return parser.parse_args()


def _measured(name: str, rounds: int) -> dict[str, Any]:
    """What a measure gives, with its title; or its error."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.measures", name, str(rounds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    title = {"title": MEASURES[name].title}
    if done.returncode != 0:
        return title | {"error": f"it ended with exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return title | result


if __name__ == "__main__":
    sys.exit(main())
