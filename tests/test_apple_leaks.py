"""No memory of the driver is lost, whatever fails, and training through it is clean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from apple.build import CSRC, build_driver, build_leaks, build_tools, sanitized_environment
from apple.faults import Fault, altered
from runs import TINY, losses, trained
from test_apple_driver import FAILURES, THROWN, UNLOADS

from ane_train.native.library import find_blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")

WAYS = ("queue", "direct", "realtime")
TRIPS = [("none:0", way) for way in WAYS]
TRIPS += [(failure, way) for failure, way, *_ in FAILURES]
TRIPS += [(f"{call}:9:throw", "queue") for call in THROWN]
TRIPS += [(f"{call}:1", way) for call, way in UNLOADS.items()]
# A fault, and the function whose memory is then lost.
LEAKS = {
    "ports": (Fault("program.m", "    ane_free(ports);\n}", "}"), "keep_ports"),
    "surfaces": (Fault("request.m", "    ane_free(request->outputs);\n", ""), "keep_surfaces"),
    "failed requests": (
        Fault("request.m", "    if (status)\n        request_free(request);", "    if (status)\n;"),
        "request_create",
    ),
    "slots when something is raised": (
        Fault(
            "request.m",
            "    } @finally {\n        ane_free(slots[0]);\n        ane_free(slots[1]);\n    }",
            "    } @finally {\n    }\n    ane_free(slots[0]);\n    ane_free(slots[1]);",
        ),
        "bind",
    ),
    "lists of the runtime": (
        Fault("explore.c", "    free(properties);\n", ""),
        "put_properties",
    ),
    "engines": (Fault("driver.m", "ane_free(engine);", "(void)engine;"), "open_checked"),
}


def leaked(csrc: Path, folder: Path) -> tuple[list[int], str]:
    """The status of every trip, and what LeakSanitizer says at the end."""
    tools = build_tools(sanitized=True)
    driver = build_driver(tools, csrc)
    trips = [word for failure, way in TRIPS for word in (failure, str(WAYS.index(way)))]
    environment = {**os.environ, "TMPDIR": str(folder), "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(
        [str(build_leaks()), str(driver), str(tools.standin), *trips],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert (done.returncode == 0) == (done.stderr == ""), done.stderr
    return [int(line) for line in done.stdout.split()], done.stderr


def test_no_failure_loses_memory(tmp_path: Path) -> None:
    statuses, said = leaked(CSRC, tmp_path)
    assert said == ""
    assert statuses[: len(WAYS)] == [0, 0, 0]
    assert all(statuses[len(WAYS) : -len(UNLOADS)])
    assert len(statuses) == len(TRIPS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LEAKS)
def test_memory_that_is_lost_is_found(name: str, tmp_path: Path) -> None:
    fault, function = LEAKS[name]
    _, said = leaked(altered(tmp_path, fault), tmp_path)
    assert "ERROR: LeakSanitizer: detected memory leaks" in said
    assert f" in {function} " in said


def test_training_is_clean_under_sanitizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = build_driver(build_tools(sanitized=True))
    settings = (*TINY, "--steps", 3, "--threads", 2, "--out", "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    software, hardware = tmp_path / "software", tmp_path / "hardware"
    software.mkdir()
    hardware.mkdir()
    wanted = losses(trained(software, *settings, "--engine", "cpu"))
    for name, value in sanitized_environment().items():
        monkeypatch.setenv(name, value)
    found = trained(hardware, *settings, "--engine", "ane", "--driver", driver)
    assert losses(found) == wanted
