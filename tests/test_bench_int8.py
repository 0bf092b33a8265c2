"""W8A8 chains: blobs as Apple's reader has them, outputs equal to whole-number arithmetic."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from coremltools_oracle import storage

from ane_train.chip import INT8, chains
from ane_train.chip.case import Bench
from ane_train.chip.chains import draw_weights
from ane_train.chip.peak import cases
from ane_train.chip.proof import Experiment, Trial
from ane_train.chip.settings import Settings, Sweep
from ane_train.generate import head
from ane_train.native.engine import Context
from ane_train.programs import decode
from ane_train.programs.quantize import quantize

DEPTH, CHANNELS = 64, 128
SETTINGS = Settings(quick=True, sweep=Sweep((INT8,), (DEPTH,), (CHANNELS,), ("8x8",)))


@dataclass(frozen=True)
class Stored:
    """What Apple's reader finds: int8 [L, C, C], and fp16 scales [L, C]."""

    values: np.ndarray
    scales: np.ndarray


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with Context(threads=2) as context:
        (case,) = cases(SETTINGS)
        made = case.build(Bench(context, None, SETTINGS))
        assert isinstance(made, Experiment)
        with made.prove(context) as proved:
            yield proved


@pytest.fixture(scope="module")
def stored(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    ((_, data),) = trial.experiment.files.items()
    path = tmp_path_factory.mktemp("blob") / "weights.bin"
    path.write_bytes(data)
    return read(path, trial.experiment)


def read(path: Path, made: Experiment) -> Stored:
    reader = storage()._BlobStorageReader(str(path))
    offsets = [int(offset) for offset in re.findall(r"offset = uint64\((\d+)\)", made.text)]
    values = [reader.read_int8_data(offset) for offset in offsets[::2]]
    scales = [np.asarray(reader.read_fp16_data(at)).view(np.float16) for at in offsets[1::2]]
    codes = [struct.unpack_from("<I", path.read_bytes(), at + 4)[0] for at in offsets]
    assert codes == [4, 1] * DEPTH
    return Stored(np.asarray(values).reshape(DEPTH, CHANNELS, CHANNELS), np.asarray(scales))


def activation_scales(made: Experiment) -> list[float]:
    """Of each quantize, which the following dequantize has to share."""
    constants = dict(re.findall(r"fp16 (\w+) = const\(\)[^;]*fp16\(([^)]*)\)", made.text))
    names = re.findall(r" = (quantize|dequantize)\([^;]* scale = (\w+)\)", made.text)
    numbers = [float.fromhex(constants[name]) for _, name in names]
    assert [kind for kind, _ in names] == ["quantize", "dequantize"] * DEPTH
    assert numbers[::2] == numbers[1::2]
    return numbers[::2]


def test_a_64_deep_chain_equals_whole_number_arithmetic(trial: Trial, stored: Stored) -> None:
    scales = activation_scales(trial.experiment)
    assert len(scales) == DEPTH
    x = trial.experiment.inputs[0].reshape(CHANNELS, -1)
    for layer, scale in enumerate(scales):
        whole = np.clip(np.rint(x / scale), -128, 127).astype(np.int32)
        sums = stored.values[layer].astype(np.int32) @ whole
        x = sums * scale * stored.scales[layer].astype(np.float64)[:, None]
        x = x.astype(np.float16).astype(np.float64)
    assert np.array_equal(trial.targets[0].array.reshape(CHANNELS, -1), x)


def test_its_error_against_fp16_is_reported_and_bounded(trial: Trial) -> None:
    assert trial.proof.error == 0
    assert 0 < trial.values["relative_error"] <= trial.values["error_bound"] < 0.5


def test_weights_have_a_scale_for_each_channel_and_all_levels(stored: Stored) -> None:
    assert (np.abs(stored.values.astype(int)).max(2) == 127).all()
    assert sum(len(np.unique(row)) > 1 for row in stored.scales) > DEPTH / 2


def test_what_is_measured_is_the_quantiser_of_generate() -> None:
    assert chains.quantize is head.quantize is quantize
    assert chains.matrix_constant is decode.matrix_constant


def test_rows_of_weights_quantise_by_a_power_of_two_and_keep_the_size_of_values() -> None:
    for rows, columns in ((16, 16), (64, 64), (256, 512), (1, 8)):
        weights = draw_weights(np.random.default_rng(rows), rows, columns)
        made = quantize(weights)
        assert (np.abs(made.values.astype(int)).max(1) == 127).all()
        assert (np.frexp(made.scales)[0] == 0.5).all()
        assert np.array_equal(weights, weights.astype(np.float16))
        assert 0.2 < (weights**2).sum() / rows <= 1.05
