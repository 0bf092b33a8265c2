"""Type encodings: published ones are declared as clang encodes them, offsets go, nonsense fails."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
from apple.build import CSRC, build_tools
from apple.hollow import build_hollow, hollow_source
from compiled import compile_c
from test_explore import listed

from ane_train.explore.encoding import EncodingError, read_method, read_types
from ane_train.explore.listing import Class, Listing, Method, Variable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is for Linux")

# As published of macOS 15 to 26 (blacktop/ipsw-diffs, tmc/ane-training-experiments), as they stand
# there and without offsets.
PUBLISHED = {
    "B28@0:8I16^@20": "B@:I^@",
    "B76@0:8@16@24I32Q36Q44@52^I60^@68": "B@:@@IQQ@^I^@",
    "@24@0:8^{_NSZone=}16": "@@:^{_NSZone=}",
    "@52@0:8{?=[8I]}16i48": "@@:{?=[8I]}i",
    "^{__IOSurface=}40@0:8*16Q24^I32": "^{__IOSurface=}@:*Q^I",
    "@32@0:8^^v16^I24": "@@:^^v^I",
    "@40@0:8^{ANENotificationMessageStruct=ii^v[4^v][4I]}16@24@32":
        "@@:^{ANENotificationMessageStruct=ii^v[4^v][4I]}@@",
    "^{ANEDeviceStruct=^v^v^vCiQ}16@0:8": "^{ANEDeviceStruct=^v^v^vCiQ}@:",
    "B32@0:8^{VMData=^{__IOSurface}[32^{__IOSurface}]{VirtANEModel=IqII[32I]cC[64I]Q}}16^@24":
        "B@:^{VMData=^{__IOSurface}[32^{__IOSurface}]{VirtANEModel=IqII[32I]cC[64I]Q}}^@",
    "@?16@0:8": "@?@:",
    "v24@0:8@?16": "v@:@?",
}  # fmt: skip
VARIABLES = {
    "_lock": '{os_unfair_lock_s="_os_unfair_lock_opaque"I}',
    "_requestsInFlight": '@"NSObject<OS_dispatch_semaphore>"',
    "_queueDepth": "c",
    "_completionHandler": "@?",
}


def test_published_encodings_are_declared_so_that_clang_encodes_them_again(tmp_path: Path) -> None:
    tools = build_tools()
    methods = tuple(
        Method("-", f"m{index}" + ":" * (len(read_types(encoding)) - 3), encoding)
        for index, encoding in enumerate(PUBLISHED.values())
    )
    variables = tuple(Variable(name, encoding) for name, encoding in VARIABLES.items())
    own = Class("_ANEOwn", "", "NSObject", (), methods, (), variables)
    wanted = Listing(1, "here", "Version 0", "Own", False, (own,), ())
    (found,) = listed(tools, build_hollow(tools, hollow_source(wanted), tmp_path)).classes
    assert found.variables == own.variables
    encodings = {m.name: m.encoding for m in found.methods if m.name[0] != "."}
    assert encodings == {m.name: m.encoding for m in methods}


@pytest.fixture(scope="module")
def stripper(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("strip") / "strip.so"
    source = CSRC / "apple" / "encoding.c"
    return ctypes.CDLL(str(compile_c(library, str(source), [], ["-shared", "-fPIC"])))


@pytest.mark.parametrize("raw", [*PUBLISHED, 'v24@0:8@?<v@?@"NS1"[2i]>16', "v16@0+8"])
def test_offsets_are_taken_out_and_nothing_else(raw: str, stripper: ctypes.CDLL) -> None:
    others = {'v24@0:8@?<v@?@"NS1"[2i]>16': 'v@:@?<v@?@"NS1"[2i]>', "v16@0+8": "v@"}
    stripped = ctypes.create_string_buffer(256)
    stripper.encoding_strip(raw.encode(), stripped, ctypes.c_size_t(len(stripped)))
    assert stripped.value.decode() == (PUBLISHED | others)[raw]
    stripper.encoding_strip(raw.encode(), stripped, ctypes.c_size_t(3))
    assert stripped.value.decode() == (PUBLISHED | others)[raw][:2]


@pytest.mark.parametrize("text", ["", "@", "@:", "B@", "{a", "[3", "[i]", "b", "v@:x", '@@:@"'])
def test_what_is_no_encoding_is_an_error(text: str) -> None:
    with pytest.raises(EncodingError):
        read_method(text, 1)
