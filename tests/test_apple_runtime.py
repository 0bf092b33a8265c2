"""The Objective-C runtime for Linux: what the driver's tests rely on, tested by itself."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

import pytest
from apple.build import Tools, build_probe, build_tools
from apple_process import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Apple's own runtime is there")

CASES = (
    "chain",
    "weak_is_cleared",
    "messages",
    "type_encodings",
    "exceptions",
    "rethrow",
    "synchronized",
    "blocks",
    "collections",
)
PROBE = "runtime_probe.m"
CALL = "import ctypes, sys; f = ctypes.CDLL(sys.argv[1])[sys.argv[2]]; f(*map(int, sys.argv[3:]))"


@pytest.fixture(scope="module")
def tools() -> Tools:
    return build_tools()


@pytest.fixture(scope="module")
def runtime(tools: Tools) -> ctypes.CDLL:
    library = ctypes.CDLL(str(tools.runtime))
    for name in ("runtime_live_total", "runtime_unpooled", "runtime_surface_violations"):
        library[name].restype = ctypes.c_long
    library.runtime_live.restype = ctypes.c_long
    return library


@pytest.fixture(scope="module")
def probe(tools: Tools) -> ctypes.CDLL:
    return ctypes.CDLL(str(build_probe(tools, PROBE)))


@pytest.mark.parametrize("case", CASES)
def test_code_compiled_for_apple_behaves_and_leaves_nothing(
    case: str, probe: ctypes.CDLL, runtime: ctypes.CDLL
) -> None:
    before = runtime.runtime_live_total(), runtime.runtime_unpooled()
    assert probe[f"probe_{case}"]() == 1
    assert (runtime.runtime_live_total(), runtime.runtime_unpooled()) == before


def test_data_goes_to_a_file_and_back(probe: ctypes.CDLL, tmp_path: Path) -> None:
    assert probe.probe_files(bytes(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_an_object_that_no_pool_takes_is_counted(probe: ctypes.CDLL, runtime: ctypes.CDLL) -> None:
    before = runtime.runtime_unpooled(), runtime.runtime_live(b"NSString")
    assert probe.probe_without_pool() == 1
    assert runtime.runtime_unpooled() == before[0] + 1
    assert runtime.runtime_live(b"NSString") == before[1] + 1


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("double_release", "message release sent to a deallocated object"),
        ("message_to_the_dead", "message setName: sent to a deallocated object"),
        ("change_while_enumerating", "was changed while it was enumerated"),
    ],
)
def test_misuse_of_objects_ends_the_process_with_its_name(
    case: str, words: str, tools: Tools
) -> None:
    done = run_python(CALL, str(build_probe(tools, PROBE)), f"probe_{case}")
    assert done.returncode == -signal.SIGABRT
    assert words in done.stderr


@pytest.mark.parametrize(("locks", "unlocks"), [(0, 0), (1, 0), (1, 2), (0, 1)])
def test_unbalanced_locks_are_violations(
    locks: int, unlocks: int, probe: ctypes.CDLL, runtime: ctypes.CDLL
) -> None:
    before = runtime.runtime_surface_violations()
    assert probe.probe_surface_write(0, 16384, locks, unlocks) == 1
    assert runtime.runtime_surface_violations() > before


def test_balanced_locks_are_no_violation(probe: ctypes.CDLL, runtime: ctypes.CDLL) -> None:
    before = runtime.runtime_surface_violations()
    assert probe.probe_surface_write(16383, 1, 2, 2) == 1
    assert runtime.runtime_surface_violations() == before


def test_a_write_behind_a_surface_is_a_fault(tools: Tools) -> None:
    done = run_python(
        CALL,
        str(build_probe(tools, PROBE)),
        "probe_surface_write",
        "16384",
        "1",
        "1",
        "1",
    )
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize(("strict", "code"), [("1", -signal.SIGSEGV), ("", 0)])
def test_a_write_without_a_lock_is_a_fault_where_that_is_asked_for(
    strict: str, code: int, tools: Tools
) -> None:
    environment = {"RUNTIME_STRICT_SURFACES": strict} if strict else {}
    done = run_python(
        CALL, str(build_probe(tools, PROBE)), "probe_surface_write_late", **environment
    )
    assert done.returncode == code
