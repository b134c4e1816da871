import math

import numpy as np
import pytest
from scipy import stats

from emu2_lit.errors import UserError
from emu2_lit.evaluation import mean_interval, paired_difference


def test_wilson_for_right_and_wrong():
    found = mean_interval([1] * 8 + [0] * 2)
    assert found.method == "wilson" and found.mean == 0.8
    assert (found.low, found.high) == pytest.approx((0.49016, 0.94332), abs=1e-5)  # by hand


@pytest.mark.parametrize(("right", "of", "level"), [(0, 5, 0.95), (5, 5, 0.9), (1, 1, 0.95), (640, 1000, 0.99)])
def test_wilson_agrees_with_scipy(right, of, level):
    found = mean_interval([True] * right + [False] * (of - right), level)
    low, high = stats.binomtest(right, of).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_bootstrap_for_other_values():
    values = np.random.default_rng(1).choice([0, 0.3, 0.6, 0.9, 1], 400).tolist()
    found = mean_interval(values)
    half = 1.959964 * np.std(values) / math.sqrt(400)
    assert found.method == "bootstrap" and found.level == 0.95
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)
    assert found == mean_interval(values) != mean_interval(values, seed=1)
    wider = mean_interval(values, level=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_items_are_paired_by_id():
    hard = np.random.default_rng(2).random(300)
    base = {f"q{i}": float(value) for i, value in enumerate(hard)}
    gain = {name: 0.05 if int(name[1:]) % 3 else -0.01 for name in base}  # two thirds gain: 0.03 on average
    tuned = {name: base[name] + gain[name] for name in reversed(base)}
    found = paired_difference(base, tuned)
    assert found.mean == pytest.approx(0.03)
    assert 0.025 < found.low < found.mean < found.high < 0.035  # means apart are known to 0.03 only
    assert paired_difference(tuned, base).mean == pytest.approx(-0.03)


def test_equal_models_do_not_differ():
    found = paired_difference({"a": 1, "b": 0}, {"a": 1, "b": 0})
    assert (found.mean, found.low, found.high, found.method) == (0, 0, 0, "bootstrap")


def test_refused():
    with pytest.raises(UserError, match="no items"):
        mean_interval([])
    with pytest.raises(UserError, match="1 items have no value"):
        mean_interval([0.5, math.nan])
    with pytest.raises(UserError, match="level 95"):
        mean_interval([1, 0], level=95)
    with pytest.raises(UserError, match="2 items .* such as 'b'"):
        paired_difference({"a": 1, "b": 0}, {"a": 1, "c": 0})
