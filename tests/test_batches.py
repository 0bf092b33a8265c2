"""The order of training: a pure function of seed and step that covers all data once an epoch."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ane_train.data.batches import (
    Compaction,
    batch,
    permute,
    validation_batches,
    windows_per_epoch,
)
from ane_train.data.tokens import TokenArray
from ane_train.errors import DataError


def array_of(length: int) -> TokenArray:
    """Return tokens that are their own positions, in two parts."""
    return TokenArray.of(np.split(np.arange(length, dtype=np.uint32), [length // 3]))


@given(size=st.integers(1, 300), key=st.binary(min_size=1, max_size=32))
def test_permute_maps_each_range_onto_itself(size: int, key: bytes) -> None:
    assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 5, 24])
def test_each_place_of_the_order_is_equally_likely(size: int) -> None:
    keys = [f"key {i}".encode() for i in range(4000)]
    for position in (0, size - 1):
        counts = np.bincount([permute(position, size, key) for key in keys], minlength=size)
        expected = len(keys) / size
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < size - 1 + 5 * np.sqrt(2 * (size - 1))


def test_neighbours_are_torn_apart() -> None:
    order = [permute(i, 1000, b"key") for i in range(1000)]
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 10
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1


def test_a_place_among_a_thousand_billion_is_found_without_memory() -> None:
    size = 10**12
    places = [permute(i, size, b"key") for i in range(1000)]
    assert len(set(places)) == 1000
    assert 0.4 < np.mean(places) / size < 0.6


@given(
    length=st.integers(2, 400),
    sequence=st.integers(1, 40),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60)
def test_an_epoch_has_each_token_as_target_once_but_for_a_rest(
    length: int, sequence: int, seed: int, epoch: int
) -> None:
    sequence = min(sequence, length - 1)
    tokens = array_of(length)
    windows = windows_per_epoch(tokens, sequence)
    inputs, targets = batch(tokens, seed=seed, step=epoch, count=windows, sequence=sequence)
    np.testing.assert_array_equal((inputs + 1) % length, targets)
    assert max(Counter(targets.ravel().tolist()).values()) == 1
    assert length - targets.size <= sequence


def test_the_rest_of_one_epoch_is_seen_in_others() -> None:
    tokens = array_of(99)
    seen = {
        int(token)
        for epoch in range(20)
        for token in batch(tokens, seed=1, step=epoch, count=9, sequence=10)[1].ravel()
    }
    assert seen == set(range(99))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    tokens = array_of(1001)
    orders = {
        batch(tokens, seed=seed, step=epoch, count=100, sequence=10)[0].tobytes()
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@given(step=st.integers(0, 60), count=st.integers(1, 5), seed=st.integers(0, 5))
def test_a_batch_depends_on_seed_and_step_and_nothing_that_went_before(
    step: int, count: int, seed: int
) -> None:
    tokens = array_of(200)
    for other in (3, step + 1, 0):
        batch(tokens, seed=seed + 1, step=other, count=count, sequence=7)
    again = batch(array_of(200), seed=seed, step=step, count=count, sequence=7)
    for one, other in zip(
        batch(tokens, seed=seed, step=step, count=count, sequence=7), again, strict=True
    ):
        np.testing.assert_array_equal(one, other)


@given(step=st.integers(0, 40), count=st.integers(1, 6), parts=st.integers(1, 4))
def test_a_large_batch_is_the_small_batches_in_its_place(step: int, count: int, parts: int) -> None:
    tokens = array_of(150)
    large = batch(tokens, seed=9, step=step, count=count * parts, sequence=8)
    small = [
        batch(tokens, seed=9, step=step * parts + part, count=count, sequence=8)
        for part in range(parts)
    ]
    for index in range(2):
        np.testing.assert_array_equal(large[index], np.concatenate([s[index] for s in small]))


def test_batches_stay_the_same_from_release_to_release() -> None:
    inputs, targets = batch(array_of(1000), seed=1234, step=5, count=3, sequence=4)
    assert inputs[:, 0].tolist() == [230, 982, 106]
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.flags.c_contiguous
    assert targets.flags.c_contiguous


@pytest.mark.parametrize("count", [1, 3, 4, 50])
def test_validation_reads_the_windows_in_order_and_the_same_each_time(count: int) -> None:
    tokens = array_of(101)
    batches = list(validation_batches(tokens, 10, count))
    assert len(batches) == max(1, 10 // count)
    starts = [int(row[0]) for inputs, _ in batches for row in inputs]
    assert starts == [10 * (i % 10) for i in range(len(batches) * count)]
    for inputs, targets in batches:
        assert inputs.shape == (count, 10)
        np.testing.assert_array_equal(inputs + 1, targets)
    again = list(validation_batches(tokens, 10, count))
    np.testing.assert_array_equal([b[0] for b in batches], [b[0] for b in again])


def test_compaction_keeps_what_occurs_in_any_array_and_maps_it_back() -> None:
    random = np.random.default_rng(0)
    train = random.integers(0, 500, 300).astype(np.uint16)
    valid = random.integers(400, 900, 50).astype(np.uint16)
    arrays = [TokenArray.of([train[:100], train[100:]]), TokenArray.of([valid])]
    compaction = Compaction.from_tokens(arrays, 1000)
    expected, inverse = np.unique(np.concatenate([train, valid]), return_inverse=True)
    np.testing.assert_array_equal(compaction.new_to_old, expected)
    assert compaction.size == len(expected)
    new = compaction.apply(arrays[0].slice(0, 300).reshape(3, 100))
    np.testing.assert_array_equal(new.ravel(), inverse[:300])
    np.testing.assert_array_equal(compaction.restore(new).ravel(), train)
    again = Compaction.from_kept(compaction.new_to_old, 1000)
    np.testing.assert_array_equal(again.old_to_new, compaction.old_to_new)


def test_compaction_names_a_token_that_was_not_kept() -> None:
    compaction = Compaction.from_tokens(TokenArray.of([np.array([3, 5], np.uint16)]), 10)
    with pytest.raises(DataError, match=r"token 4 does not occur.*--compact-vocab"):
        compaction.apply(np.array([[3, 4]], np.int32))
