"""Rules of the configuration: where values come from, what is refused, and its forms as text."""

import dataclasses
import json
import math
import sys
import tomllib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ane_train.config import (
    Layer,
    RunConfig,
    complete,
    environment_layer,
    resolve,
    run_layer,
    spellings,
)
from ane_train.config_rules import contradiction
from ane_train.config_text import json_schema, markdown, read_file, to_toml
from ane_train.config_values import NUMERICS, is_optional, kind_of, setting_of, written
from ane_train.errors import ConfigError
from ane_train.native import engine

FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
NUMBERS = {"float": float, "Duration": float, "LossScale": float, "int": int, "ByteSize": int}
NAMES = st.from_regex(r"[a-z0-9.*?_\[\]-]+", fullmatch=True)


def values_of(field):
    setting, kind = setting_of(field), kind_of(field)
    if kind == "bool":
        values = st.booleans()
    elif kind == "Names":
        names = st.sampled_from(setting.choices) if setting.choices else NAMES
        values = st.lists(names, unique=True).map(tuple)
    elif setting.choices:
        values = st.sampled_from(setting.choices)
    elif kind in NUMBERS:
        values = numbers(setting, NUMBERS[kind])
        values = values | st.just("dynamic") if kind == "LossScale" else values
    else:
        values = TEXT
    return values | st.none() if is_optional(field) else values


def numbers(setting, kind):
    low = setting.minimum if setting.minimum is not None else setting.above
    high = setting.maximum if setting.maximum is not None else setting.below
    if kind is int:
        low = low if setting.minimum is not None else low + 1
        return st.integers(int(low), int(high) - 1 if high is not None else None)
    return st.floats(
        low,
        high,
        exclude_min=setting.minimum is None,
        exclude_max=high is not None and setting.maximum is None,
        allow_infinity=False,
        allow_nan=False,
    )


@st.composite
def configs(draw):
    values = {name: draw(values_of(field)) for name, field in FIELDS.items()}
    config = RunConfig(**reconciled(values))
    assert contradiction(config) is None
    return config


def reconciled(values):
    """The values without the contradictions that a random draw is full of."""
    if values["resume"] is not None:
        values |= {"scratch": False, "out": None}
    if values["init"] is not None:
        values |= {"scratch": False, "model": "tiny"}
    if None not in (values["lr"], values["min_lr"]):
        values["min_lr"], values["lr"] = sorted((values["min_lr"], values["lr"]))
    if values["steps"] and values["warmup"] is not None:
        values["warmup"], values["steps"] = sorted((values["warmup"], values["steps"]))
    if not values["eval_every"]:
        values["patience"] = 0
    if values["engine"] == "ane":
        values["numerics"] = "fp16"
    if values["engine_extras"] or values["delta"]:
        values["pipeline"] = "static"
    if values["lora_rank"] and values["init"] is not None:
        values |= {"freeze": (), "compact_vocab": False, "residual_scale": "none"}
    else:
        values |= {"lora_rank": 0, "lora_alpha": None, "lora_targets": ("all-linear",)}
    return values


@settings(max_examples=150, deadline=None)
@given(configs())
def test_written_as_toml_any_configuration_reads_back_equal(config):
    assert resolve([Layer("toml", tomllib.loads(to_toml(config)))]) == config


@settings(max_examples=50, deadline=None)
@given(configs())
def test_written_as_json_or_yaml_any_configuration_reads_back_equal(config):
    values = {name: written(f, getattr(config, name)) for name, f in FIELDS.items()}
    assert resolve([Layer("json", json.loads(json.dumps(values)))]) == config
    assert resolve([Layer("yaml", yaml.safe_load(yaml.safe_dump(values)))]) == config


@settings(max_examples=50, deadline=None)
@given(configs())
def test_given_as_text_any_configuration_reads_back_equal(config):
    texts = {}
    for name, field in FIELDS.items():
        value = written(field, getattr(config, name))
        if isinstance(value, list):
            texts[name] = ",".join(value)
        elif value is not None:
            texts[name] = value if isinstance(value, str) else json.dumps(value)
    assert resolve([Layer("text", texts)]) == config


def test_without_layers_all_are_defaults():
    assert resolve() == RunConfig()


def test_later_layers_win(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("steps = 10\naccum = 2\nseed = 1\n")
    layers = [
        read_file(file),
        environment_layer({"ANE_TRAIN_ACCUM": "3", "ANE_TRAIN_SEED": "2", "HOME": "/"}),
        Layer("flags", {"seed": "3"}),
    ]
    config = resolve(layers)
    assert (config.steps, config.accum, config.seed) == (10, 3, 3)


@pytest.mark.parametrize("ending", ["toml", "json", "yaml", "yml"])
def test_a_number_given_as_text_is_a_number(tmp_path, ending):
    texts = {"toml": 'lr = "1e-5"', "json": '{"lr": "1e-5"}'}
    file = tmp_path / f"run.{ending}"
    file.write_text(texts.get(ending, "lr: 1e-5"))
    assert resolve([read_file(file)]).lr == 1e-5


def test_an_empty_yaml_file_sets_nothing(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("# nothing\n")
    assert resolve([read_file(file)]) == RunConfig()


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("lerning_rate", "learning_rate"), ("step", "steps"), ("batch-siz", "batch_size")],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(key, suggestion):
    with pytest.raises(ConfigError, match=rf"unknown setting {key}; did you mean {suggestion}\?"):
        resolve([Layer("run.toml", {key: 1})])


def test_an_unknown_variable_of_ours_is_an_error():
    with pytest.raises(ConfigError, match=r"environment ANE_TRAIN_\*: .*did you mean steps\?"):
        resolve([environment_layer({"ANE_TRAIN_STEP": "5"})])
    assert environment_layer({"ANE_TRAIN_DEBUG": "1"}).values == {}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("steps", "many", "must be a whole number"),
        ("steps", 1.5, "must be a whole number"),
        ("steps", True, "must be a whole number"),
        ("steps", -1, "must be 0 or more"),
        ("batch_size", 0, "must be more than 0"),
        ("lr", 0, "must be more than 0"),
        ("lr", "nan", "must be finite"),
        ("lr", [1], "must be a number"),
        ("lr", 10**400, "must be a number"),
        ("lr", {"peak": 1}, "must be a number"),
        ("beta2", 1.0, "must be less than 1"),
        ("valid_fraction", 0.6, "must be 0.5 or less"),
        ("scratch", "maybe", "must be true or false"),
        ("schedule", "cosin", "choose from cosine, linear, constant, wsd"),
        ("chip", "m9", "choose from m1, m2, m3, m4, m5"),
        ("report_to", "wandb,tensorbord", "choose from tensorboard, wandb, trackio, mlflow"),
        ("loss_scale", "static", 'must be a number or "dynamic"'),
        ("loss_scale", 0, "must be more than 0"),
        ("max_time", "soon", "must be a time such as"),
        ("max_memory", 20, "must be a size with its unit"),
        ("max_memory", "lots", "must be a size with its unit"),
        ("model", "", "must not be empty"),
        ("model", 5, "must be text"),
        ("data", "\udcff", "must be valid UTF-8"),
        ("model", None, "must be text"),
    ],
)
def test_a_wrong_value_is_an_error_of_one_line_that_names_it(key, value, why):
    with pytest.raises(ConfigError) as caught:
        resolve([Layer("run.toml", {key: value})])
    text = str(caught.value)
    assert text.startswith(f"run.toml: {key} = ")
    assert why in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"scratch": True, "resume": "last"}, "--scratch starts anew and --resume goes on"),
        ({"out": "here", "resume": "last"}, "leave out --out"),
        ({"lr": 1e-4, "min_lr": 1e-3}, "min_lr 0.001 is more than lr 0.0001"),
        ({"steps": 10, "warmup": 11}, "warmup 11 is more than steps 10"),
        ({"patience": 3, "eval_every": 0}, "--patience counts evaluations"),
        ({"delta": True}, "--delta needs weights as constants"),
        ({"engine_extras": True}, "--engine-extras needs weights as constants"),
        ({"engine": "ane", "numerics": "fp32"}, "needs --engine cpu"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(values, why):
    with pytest.raises(ConfigError, match=why):
        resolve([Layer("flags", values)])


def test_a_setting_given_twice_in_one_place_is_an_error():
    with pytest.raises(ConfigError, match="lr is given twice, once as learning_rate"):
        resolve([Layer("run.toml", {"lr": 1, "learning_rate": 1})])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400)],
)
def test_times_may_have_units(text, seconds):
    assert resolve([Layer("flags", {"max_time": text})]).max_time == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GiB", 20 << 30), ("20G", 20 << 30), ("1.5 gb", 3 << 29), ("512m", 512 << 20), ("7B", 7)],
)
def test_sizes_have_units_of_1024(text, size):
    assert resolve([Layer("flags", {"max_memory": text})]).max_memory == size


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("run.toml", "steps = \nlr = 1", "line 1"),
        ("run.json", "{", "line 1 column 2"),
        ("run.yaml", "a: b: c", "line 1"),
        ("run.json", "[1]", "must hold settings by name"),
        ("run.ini", "", "ends in .toml, .json, .yaml, .yml"),
        ("run.toml", b"\xff", "utf-8"),
    ],
)
def test_a_bad_file_is_an_error_of_one_line_that_names_it(tmp_path, name, text, why):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_file(tmp_path / "none.toml")


def test_yaml_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    file = tmp_path / "run.yaml"
    file.write_text("steps: 1")
    with pytest.raises(ConfigError, match="pip install pyyaml"):
        read_file(file)


def test_the_peak_learning_rate_halves_for_four_times_the_width():
    peaks = [complete(RunConfig(), dim=dim, sequence=64).lr for dim in (768, 4 * 768)]
    assert peaks == [3e-4, 1.5e-4]
    assert complete(RunConfig(), dim=2, sequence=64).lr == 2e-3


def test_what_is_stated_is_not_completed():
    stated = RunConfig(
        lr=1e-3, min_lr=0.0, warmup=7, seq=32, residual_scale="none", schedule="linear"
    )
    assert complete(stated, dim=64, sequence=64) == stated


def test_completing_follows_the_rules_of_the_help_texts():
    done = complete(RunConfig(lr=1e-3, steps=300), dim=64, sequence=48)
    assert (done.min_lr, done.warmup, done.seq) == (1e-4, 30, 48)
    assert done.residual_scale == "deepnet"
    assert complete(RunConfig(steps=5000), dim=64, sequence=48).warmup == 100
    endless = complete(RunConfig(steps=0), dim=64, sequence=48)
    assert (endless.warmup, endless.schedule) == (100, "constant")


def test_completing_twice_changes_nothing_more():
    once = complete(RunConfig(), dim=288, sequence=256)
    assert complete(once, dim=288, sequence=256) == once


def test_completing_refuses_what_contradicts_the_rules():
    with pytest.raises(ConfigError, match=r"min_lr [^ ]+ is more than lr"):
        complete(RunConfig(min_lr=0.1), dim=64, sequence=64)


def test_a_resumed_run_gives_its_settings_but_not_those_of_one_process():
    saved = RunConfig(scratch=True, out="x", stop_after=5, steps=77, lr=1e-3)
    layer = run_layer("config.toml", tomllib.loads(to_toml(saved)))
    config = resolve([layer, Layer("flags", {"resume": "last"})])
    assert config == RunConfig(resume="last", steps=77, lr=1e-3)


def test_every_setting_is_explained_and_in_a_group():
    for field in FIELDS.values():
        setting = setting_of(field)
        assert setting.help
        assert setting.group
        assert "\n" not in setting.help


def test_only_optional_settings_are_none_by_default():
    for field in FIELDS.values():
        assert is_optional(field) == (field.default is None), field.name


def test_no_spelling_means_two_settings():
    names = [name for field in FIELDS.values() for name in spellings(field)]
    assert len(names) == len(set(names))


def test_limits_hold_for_the_defaults():
    values = {name: written(field, field.default) for name, field in FIELDS.items()}
    assert resolve([Layer("defaults", values)]) == RunConfig()


def test_the_schema_knows_exactly_the_settings():
    schema = json.loads(json.dumps(json_schema()))
    assert list(schema["properties"]) == list(FIELDS)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["schedule"]["enum"] == ["cosine", "linear", "constant", "wsd"]
    assert schema["properties"]["beta2"]["exclusiveMaximum"] == 1
    assert schema["properties"]["steps"]["minimum"] == 0


@settings(max_examples=50, deadline=None)
@given(configs())
def test_the_schema_allows_what_is_written(config):
    types = {"string": str, "boolean": bool, "integer": int, "number": float | int, "array": list}
    properties = json_schema()["properties"]
    for name, value in tomllib.loads(to_toml(config)).items():
        allowed = properties[name]
        if "anyOf" in allowed:
            assert value == "dynamic" or value > 0
            continue
        named = allowed["type"] if isinstance(allowed["type"], list) else [allowed["type"]]
        assert any(isinstance(value, types[each]) for each in named), name
        assert value in allowed.get("enum", [value])
        for each in value if isinstance(value, list) else []:
            assert each in allowed["items"].get("enum", [each])
        if not isinstance(value, str | list):
            assert allowed.get("minimum", -math.inf) <= value <= allowed.get("maximum", math.inf)


def test_the_documentation_has_one_row_for_each_setting():
    rows = [line for line in markdown().splitlines() if line.startswith("| `--")]
    assert [row.split("`")[1] for row in rows] == ["--" + name.replace("_", "-") for name in FIELDS]
    assert all(row.count("|") == 5 for row in rows)


def test_every_numerics_of_the_core_can_be_chosen() -> None:
    assert set(NUMERICS) == set(engine.NUMERICS)
