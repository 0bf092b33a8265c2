"""Generation through the driver and the stand-in is the software engine's, and leaves nothing."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from apple.build import build_driver, build_tools
from apple.session import StandIn
from generators import CONTEXT, model
from hf_models import save_model
from runs import ane_train

from ane_train.data.tokenizer import BUILT_IN_TOKENIZER
from ane_train.engine import Engine, EngineOptions, open_engine
from ane_train.generate.decoder import DecoderOptions
from ane_train.generate.generator import Generator
from ane_train.native.library import find_blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the real framework is there")

PROMPT = [5, 17, 31, 2, 40, 9, 9, 77]
COUNT = 64  # tokens, so that the caches, of 64 columns at first, are replaced


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(build_tools())


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    standin = StandIn(build_tools().standin)
    standin.reset()
    return standin


def greedy(engine: Engine, name: str, *, int8: bool) -> tuple[list[int], list[np.ndarray]]:
    """The likeliest tokens and the logits that they were chosen by; the engine is closed."""
    with closing(engine):
        spec, weights = model(name)
        options = DecoderOptions(CONTEXT, int8=int8, program_bytes=1)  # a program for each layer
        generator = Generator(spec, weights, engine, options)
        with closing(generator):
            logits = [generator.prefill(PROMPT)]
            while len(logits) < COUNT:
                logits.append(generator.step(int(logits[-1].argmax())))
    return [int(row.argmax()) for row in logits], logits


@pytest.mark.parametrize("int8", [False, True], ids=["fp16", "int8"])
@pytest.mark.parametrize("name", ["groups of 3 untied", "qk-norm"])
def test_greedy_tokens_are_the_software_engines_and_nothing_is_left(
    name: str, int8: bool, driver: Path, standin: StandIn
) -> None:
    software = open_engine(EngineOptions("cpu", threads=1))
    tokens, wanted = greedy(software, name, int8=int8)
    with standin.leaving_nothing():
        hardware = open_engine(EngineOptions("ane", threads=1, driver=str(driver)))
        ours, logits = greedy(hardware, name, int8=int8)
    assert hardware.fallbacks == {}
    assert ours == tokens
    assert len(set(ours)) > 2
    assert np.array_equal(np.stack(logits).view(np.uint32), np.stack(wanted).view(np.uint32))
    assert standin.report()["evaluations"] > 2 * COUNT


def test_the_command_writes_the_same_text_within_the_limit_of_the_system(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs of the quick check and two for the text are all that the stand-in compiles."""
    save_model("qwen3", tmp_path / "model", vocabulary=2048)
    shutil.copy(BUILT_IN_TOKENIZER, tmp_path / "model" / "tokenizer.json")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("ANE_STANDIN_BLAS", find_blas() or "")
    monkeypatch.setenv("ANE_STANDIN_REPORT", str(tmp_path / "report.json"))
    monkeypatch.setenv("ANE_STANDIN_COMPILE_LIMIT", "4")
    asked = ("generate", "--model", "model", "--prompt", "The whale", "--temp", 0, "--threads", 1)
    software = ane_train(tmp_path, *asked, "--engine", "cpu")
    limits = ("--engine", "ane", "--driver", driver, "--compile-limit", 4)
    hardware = ane_train(tmp_path, *asked, *limits)
    for done in (software, hardware):
        assert done.returncode == 0, done.stderr
    assert hardware.stdout == software.stdout != ""
    assert "engine ane" in hardware.stderr
    left = json.loads((tmp_path / "report.json").read_text())
    assert left["compiles"] == 4
    assert left["live"] == {}
    assert left["loaded"] == left["unpooled"] == left["surface_violations"] == 0
    assert list(temporary.iterdir()) == []
