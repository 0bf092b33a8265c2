"""Chat templates: real ones render as transformers renders them, and what is said is found."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Core
from transformers import PreTrainedTokenizerFast

from ane_train.data.chat import ChatTemplate, load_chat_template
from ane_train.data.examples import encode_examples
from ane_train.data.tokenizer import BUILT_IN_TOKENIZER, load_tokenizer
from ane_train.data.tokens import COUNTS, TOKEN
from ane_train.errors import DataError

SYSTEM = {"role": "system", "content": "Answer like a whaler, é 💡."}
USER = {"role": "user", "content": "  What is  white?\n"}
ASSISTANT = {"role": "assistant", "content": "The whale.\n\nAye!"}
AGAIN = {"role": "user", "content": "And the sea?"}
LAST = {"role": "assistant", "content": "Not <think> so."}
CONVERSATIONS = [
    [USER, ASSISTANT],
    [SYSTEM, USER, ASSISTANT],
    [USER, ASSISTANT, AGAIN, LAST],
    [SYSTEM, USER, ASSISTANT, AGAIN, LAST],
]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TEMPLATES = Path(importlib.util.find_spec("trl").submodule_search_locations[0], "chat_templates")
PLAIN = ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "llama3_1", "llama3_2", "phi3"]
TRAINING = ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "phi3", "deepseekv3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with the special tokens of Qwen and Llama 3."""
    folder = tmp_path_factory.mktemp("tokenizer")
    core = Core.from_file(str(BUILT_IN_TOKENIZER))
    core.add_special_tokens([*SPECIAL, "<|begin_of_text|>"])
    core.save(str(folder / "tokenizer.json"))
    return folder


def template_of(folder: Path, name: str) -> tuple[ChatTemplate, PreTrainedTokenizerFast]:
    """The template as we read it, and transformers' tokenizer with the same."""
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{name}.jinja").read_text())
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    peer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    peer.chat_template = (folder / "chat_template.jinja").read_text()
    return load_chat_template(folder / "tokenizer.json"), peer


def encoded(folder: Path, template: ChatTemplate, messages: list[dict]) -> list[tuple[list, list]]:
    """Tokens and what of them counts, of each example that the conversation becomes."""
    path = folder / "one.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return [
        ((one.tokens & TOKEN).tolist(), ((one.tokens & COUNTS) > 0).tolist())
        for one in encode_examples([path], tokenizer, template)
    ]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", [*PLAIN, *(f"{name}_training" for name in TRAINING)])
def test_real_templates_render_as_transformers_renders_them(folder, name, messages) -> None:
    template, peer = template_of(folder, name)
    for prompt in (False, True):
        conversation = messages[:-1] if prompt else messages
        expected = peer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=prompt
        )
        assert template.render(conversation, "here", generation_prompt=prompt) == expected


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", TRAINING)
def test_what_a_template_marks_counts_as_transformers_counts_it(folder, name, messages) -> None:
    template, peer = template_of(folder, f"{name}_training")
    expected = peer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    [(tokens, counts)] = encoded(folder, template, messages)
    assert tokens[: len(expected["input_ids"])] == expected["input_ids"]
    assert counts[: len(tokens)] == [
        *map(bool, expected["assistant_masks"]),
        *[False] * (len(tokens) - len(expected["input_ids"])),
    ]
    assert tokens[-1] == 0, "the end-of-text token"


def said_in(peer: PreTrainedTokenizerFast, tokens: list[int], counts: list[bool]) -> list[str]:
    """The text of each run of tokens that count."""
    runs = groupby(zip(tokens, counts, strict=True), lambda pair: pair[1])
    return [peer.decode([token for token, _ in run]) for counted, run in runs if counted]


def turn_of(peer: PreTrainedTokenizerFast, messages: list[dict]) -> str:
    """What the last message adds to its prompt, as transformers renders both."""
    render = partial(peer.apply_chat_template, tokenize=False)
    return render(messages).removeprefix(render(messages[:-1], add_generation_prompt=True))


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "llama3_1", "llama3_2"])
def test_without_marks_the_turns_beyond_their_prompts_count(folder, name, messages) -> None:
    template, peer = template_of(folder, name)
    [(tokens, counts)] = encoded(folder, template, messages)
    assert tokens == [*peer.apply_chat_template(messages, return_dict=False), 0]
    turns = [i for i, message in enumerate(messages, 1) if message["role"] == "assistant"]
    assert said_in(peer, tokens, counts) == [turn_of(peer, messages[:i]) for i in turns]


@pytest.mark.parametrize(("name", "start"), [("qwen3", "<think>\n\n</think>\n\n"), ("phi3", "")])
def test_turns_that_a_template_shows_differently_later_become_examples(folder, name, start) -> None:
    template, peer = template_of(folder, name)
    messages = CONVERSATIONS[3]
    examples = encoded(folder, template, messages)
    assert len(examples) == 2
    for (tokens, counts), stop in zip(examples, (3, 5), strict=True):
        ids = peer.apply_chat_template(messages[:stop], return_dict=False)
        assert tokens == [*ids, 0][: len(tokens)]
        [said] = said_in(peer, tokens, counts)
        assert said == turn_of(peer, messages[:stop])
        assert said.startswith(start + messages[stop - 1]["content"])
    assert len(encoded(folder, template, CONVERSATIONS[1])) == 1


def test_what_follows_the_last_turn_of_the_assistant_is_left_out(folder: Path) -> None:
    for name in ("qwen2_5", "qwen2_5_training"):
        template, _ = template_of(folder, name)
        whole = encoded(folder, template, [USER, ASSISTANT, AGAIN])
        assert whole == encoded(folder, template, [USER, ASSISTANT])


def write_template(folder: Path, source: object, **tokens: object) -> Path:
    """A folder with only tokenizer_config.json beside the tokenizer."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = {"chat_template": source, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


def test_a_template_may_be_one_of_several_and_names_the_special_tokens(folder: Path) -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": source}]
    path = write_template(
        folder,
        named,
        bos_token={"content": "<b>", "lstrip": False},
        eos_token="<e>",
        pad_token=None,
    )
    assert load_chat_template(path).render([USER], "here") == f"<b>{USER['content']}<e>"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"has no chat template for messages: put .* beside it"),
        ([], "has no chat template"),
        ("{% if %}", "no usable chat template"),
        ("{{ raise_exception('roles must alternate') }}", r"line 1: .* refuses it: roles must"),
        ("{{ messages.append(1) }}", "line 1: .* refuses it"),
        ("{{ ''.__class__.__mro__ }}", "line 1: .* refuses it"),
        ("{% for i in range(999999) %}{% endfor %}", "line 1: .* refuses it"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "line 1: .* refuses it: .*private"),
        ("{% set ns = namespace(__html__=1) %}", "line 1: .* refuses it: .*private"),
        ("{{ 1 / 0 }}", "line 1: .* refuses it: division by zero"),
        ("{{ messages | length }}", r"line 1: what message 2 says cannot be told .*generation"),
        ("{{ 5 }}{# {% generation %} #}", r"line 1: .* encloses nothing"),
    ],
)
def test_templates_that_do_not_serve_are_one_line_errors(folder, source, message) -> None:
    path = write_template(folder, source)
    with pytest.raises(DataError, match=message) as caught:
        encoded(folder, load_chat_template(path), [USER, ASSISTANT])
    assert "\n" not in str(caught.value)


def test_json_in_a_template_is_that_of_hugging_face(folder: Path) -> None:
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}"
        "{% if loop.last %}{% break %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}\n"
        "{{ messages | tojson(indent=2) }}{{ messages[0] | tojson(separators=(',', ':')) }}"
        "{{ dict(a='<é>') | tojson(ensure_ascii=true, sort_keys=true) }}{{ tools }}{{ pad_token }}"
    )
    path = write_template(folder, source)
    peer = PreTrainedTokenizerFast(tokenizer_file=str(path), chat_template=source)
    messages = [{"role": "user", "content": "<é> & 'so'"}, ASSISTANT]
    expected = peer.apply_chat_template(messages, tokenize=False)
    assert load_chat_template(path).render(messages, "here") == expected


def test_a_date_is_that_of_today(folder: Path) -> None:
    from datetime import datetime

    template = load_chat_template(write_template(folder, "{{ strftime_now('%Y') }}"))
    assert template.render([USER], "here") in {str(datetime.now().year + i) for i in (-1, 0)}


def test_broken_files_beside_the_tokenizer_are_named(folder: Path) -> None:
    path = write_template(folder, None)
    (folder / "tokenizer_config.json").write_text("[")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is no valid JSON object"):
        load_chat_template(path)
    write_template(folder, None)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"chat_template\.jinja: byte 0 is not UTF-8"):
        load_chat_template(path)
    (folder / "chat_template.jinja").unlink()
