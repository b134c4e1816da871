from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from datamodules.order import MAX_PERIOD, GlobalOrder, integer_shares, permutation, schedule, splitmix64
from datamodules.split import Split, StepBatches
from emu2_lit.samples.seeding import hash_seed


def test_seeds_are_stable_and_separate_their_parts():
    assert hash_seed("a", 1) == 4049335214781213793
    assert hash_seed("ab", "c") != hash_seed("a", "bc")


def test_hash_is_splitmix64():
    assert splitmix64(np.array([1, 2], np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_permutation_is_one_and_never_changes():
    assert sorted(permutation(7, 1000)) == list(range(1000))
    assert permutation(3, 8).tolist() == [1, 3, 5, 2, 7, 4, 6, 0]
    assert permutation(3, 8).tolist() != permutation(4, 8).tolist()


def test_every_sample_comes_once_per_epoch_and_each_epoch_in_another_order():
    order = GlobalOrder([5, 3, 9], seed=1)
    epochs = [[order(17 * epoch + place) for place in range(17)] for epoch in range(3)]
    everything = {(source, index) for source, size in enumerate([5, 3, 9]) for index in range(size)}
    for number, draws in enumerate(epochs):
        assert {draw[:2] for draw in draws} == everything
        assert {draw[2] for draw in draws} == {number}
    assert [draw[:2] for draw in epochs[0]] != [draw[:2] for draw in epochs[1]]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [([0.7, 0.2, 0.1], [7, 2, 1]), ([1, 1], [1, 1]), ([3, 1.5], [2, 1]), ([0.333, 0.667], [333, 667])],
)
def test_weights_are_taken_as_written(weights, shares):
    assert integer_shares(weights) == shares


def test_weights_of_many_digits_keep_a_bounded_period():
    shares = integer_shares([665298, 1, 123457])
    assert sum(shares) <= MAX_PERIOD + 3 and min(shares) == 1
    assert shares[0] / sum(shares) == pytest.approx(665298 / 788756, abs=2e-4)


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.1], [5, 3, 3, 1, 1], [0.01, 0.99], [1, 1, 1]])
def test_mixture_counts_are_within_one_of_exact_at_every_position(weights):
    order = GlobalOrder([4] * len(weights), weights)
    counts: Counter[int] = Counter()
    for position in range(300):
        counts[order(position)[0]] += 1
        for source, weight in enumerate(weights):
            exact = Fraction(str(weight)) / sum(Fraction(str(w)) for w in weights) * (position + 1)
            assert abs(counts[source] - exact) < 1


def test_counts_of_whole_periods_are_exact():
    draws = Counter(schedule([7, 2, 1]))
    assert draws == {0: 7, 1: 2, 2: 1}


def test_weighted_sources_are_used_up_before_they_repeat():
    order = GlobalOrder([4, 6], [1, 3], seed=2)
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for position in range(96):
        source, index, epoch = order(position)
        seen[source].append((index, epoch))
    for source, size in enumerate([4, 6]):
        for start in range(0, len(seen[source]), size):
            chunk = seen[source][start : start + size]
            assert sorted(index for index, _ in chunk) == list(range(size))
            assert {epoch for _, epoch in chunk} == {start // size}


def test_a_step_holds_the_same_samples_for_every_split():
    splits = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (4, 1, 2)]
    for step in range(3):
        for micro, accumulation, world in splits:
            positions = [
                position
                for rank in range(world)
                for batch in range(accumulation)
                for position in Split(micro, accumulation, world, rank).positions(step * 8, batch)
            ]
            assert sorted(positions) == list(range(step * 8, step * 8 + 8))


def test_ranks_see_each_validation_position_once_in_as_many_batches():
    ranks = [Split(3, world_size=4, rank=rank).once_over(26) for rank in range(4)]
    assert {len(batches) for batches in ranks} == {3}
    seen = sorted(position for batches in ranks for batch in batches for position in batch)
    assert seen[:26] == list(range(26)) and len(seen) == 36


def test_batches_from_a_later_start_continue_the_same_stream():
    split = Split(2, accumulation=2, world_size=2, rank=1)
    whole = list(StepBatches(split, [0], steps=5))
    assert list(StepBatches(split, [3 * split.global_batch_size], steps=2)) == whole[6:]
