"""The adapter gives lm-evaluation-harness what the harness's own model of transformers gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import new_model
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

import ane_train.lm_eval
from ane_train.data.tokenizer import BUILT_IN_TOKENIZER

PAIRS = [
    ("Call me", " Ishmael"),
    ("Some years ago, ", "never mind how long"),
    ("", "It was a dark night"),
    ("a long way " * 40, "to the sea"),
]
TEXTS = ["It is a way I have of driving off the spleen.", "the sea " * 120]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours by its registered name, and the harness's own, of one checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = new_model("llama grouped", vocabulary=2048)
    model.save_pretrained(folder)
    shutil.copy(BUILT_IN_TOKENIZER, folder / "tokenizer.json")
    ours = get_model("ane-train")(model=str(folder), engine="cpu", numerics="fp32")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(BUILT_IN_TOKENIZER), eos_token="<|endoftext|>"
    )
    with torch.no_grad():
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, max_length=128, batch_size=1)
    return ours, theirs


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def test_log_likelihoods_of_continuations_are_those_of_the_harness(models: tuple[Any, Any]) -> None:
    ours, theirs = (model.loglikelihood(requests("loglikelihood", PAIRS)) for model in models)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=1e-5)
    assert [greedy for _, greedy in ours] == [bool(greedy) for _, greedy in theirs]


def test_log_likelihoods_of_whole_texts_are_those_of_the_harness(models: tuple[Any, Any]) -> None:
    given = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    ours, theirs = (model.loglikelihood_rolling(given) for model in models)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_texts_are_generated_up_to_the_stop_strings_of_the_request(
    models: tuple[Any, Any],
) -> None:
    settings = {"until": ["\n\n"], "max_gen_toks": 24, "do_sample": False}
    given = requests("generate_until", [("Call me", settings), ("The white whale", settings)])
    free, theirs = (model.generate_until(given) for model in models)
    assert free == theirs
    stop = free[0][5:8]
    cut = models[0].generate_until(
        requests("generate_until", [("Call me", settings | {"until": stop})])
    )
    assert cut == [free[0][: free[0].index(stop)]]


def test_the_package_is_needed_by_nothing_but_the_adapter() -> None:
    users = [
        path.name
        for path in Path(ane_train.lm_eval.__file__).parent.rglob("*.py")
        if "lm_eval" in path.read_text()
    ]
    assert users == ["lm_eval.py"]
