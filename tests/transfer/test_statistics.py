"""Numbers by hand, scipy as the independent implementation, and coverage on synthetic normals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.transfer.statistics import (
    Interval,
    interquartile_mean,
    iqm_interval,
    probability_of_improvement,
    stratified_bootstrap,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
SCORES = st.lists(st.integers(-64, 64).map(lambda k: k / 64), min_size=1, max_size=9)


def mean_of_each(scores):
    return scores.mean(axis=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([9.0, 0.0, 3.0], 4.0),  # floor(3/4) = 0 cut: (0 + 3 + 9) / 3
        ([100.0, 1.0, -50.0, 2.0], 1.5),  # 1 cut each end: (1 + 2) / 2
        ([0.0, 1.0, 2.0, 6.0, 99.0], 3.0),  # 1 cut each end: (1 + 2 + 6) / 3
        ([0.0, 1.0, 2.0, 3.0, 6.0, 99.0, -9.0], 2.4),  # 1 cut: (0 + 1 + 2 + 3 + 6) / 5
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 10.0], 5.5),  # 2 cut: (4 + 5 + 6 + 7) / 4
    ],
)
def test_interquartile_mean_by_hand(values, expected):
    assert interquartile_mean(values) == pytest.approx(expected)


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    assert interquartile_mean(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25, axis=None))
    for axis in (0, 1, -1):
        found = interquartile_mean(values, axis=axis)
        np.testing.assert_allclose(found, scipy.stats.trim_mean(values, 0.25, axis=axis))


def test_interquartile_mean_leaves_its_argument_alone():
    values = np.array([3.0, 1.0, 2.0, 0.0])
    interquartile_mean(values)
    assert values.tolist() == [3.0, 1.0, 2.0, 0.0]


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 3.0, float("nan")]])
def test_interquartile_mean_refuses_nothing_and_nan(values):
    with pytest.raises(GraftError, match="run"):
        interquartile_mean(values)


def test_interval_of_equal_runs_has_no_width():
    assert iqm_interval([2.0] * 5) == Interval(2.0, 2.0, 2.0)
    assert iqm_interval({"a": [1.0] * 3, "b": [3.0] * 3}) == Interval(2.0, 2.0, 2.0)


def test_interval_of_two_runs_is_their_range():
    # A resample's mean is 0, 1/2, 1 with chance 1/4, 1/2, 1/4: the 2.5 % quantile is 0, the 97.5 % quantile 1.
    assert iqm_interval([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)


def test_confidence_moves_the_bounds():
    # The same three values: quantiles 0.3 and 0.7 both fall on the middle one, which has chance 1/2.
    assert iqm_interval([0.0, 1.0], confidence=0.4) == Interval(0.5, 0.5, 0.5)


def test_exact_quantiles_of_three_runs():
    # Mean of 3 draws from {0, 0, 3}: k/3 * 3 = k with k ~ Binomial(3, 1/3): P(0) = .296, P(3) = .037, P(<= 2) = .963.
    # So the 95 % interval is [0, 3]: .963 < .975; and the 90 % one is [0, 2]: P(<= 1) = .741 < .95 < .963.
    assert iqm_interval([0.0, 0.0, 3.0]) == Interval(1.0, 0.0, 3.0)
    assert iqm_interval([0.0, 0.0, 3.0], confidence=0.9) == Interval(1.0, 0.0, 2.0)


def test_resamples_have_the_shape_and_the_strata_of_the_runs():
    seen = []

    def statistic(scores, others):
        seen.append((scores, others))
        return scores.mean(axis=1)

    runs = {"b": [10.0, 11.0, 12.0], "a": [0.0, 1.0]}
    stratified_bootstrap(statistic, runs, {"a": [5.0], "b": [6.0]}, seed=3, resamples=50)
    resampled, others = next((s, o) for s, o in seen if len(s) == 50)
    assert resampled.shape == (50, 5)
    assert others.tolist() == [[5.0, 6.0]] * 50
    assert set(resampled[:, :2].ravel()) == {0.0, 1.0}
    assert set(resampled[:, 2:].ravel()) == {10.0, 11.0, 12.0}


def test_groups_are_resampled_independently():
    # Two equal groups {0, 1}: with a shared draw the difference would always be 0. Independent, each mean is 0, 1/2, 1
    # with chance 1/4, 1/2, 1/4, so that P(difference = -1) = P(0) * P(1) = 1/16 > 2.5 %: the interval is [-1, 1].
    found = stratified_bootstrap(lambda p, b: p.mean(1) - b.mean(1), [0.0, 1.0], [0.0, 1.0], seed=0)
    assert found == Interval(0.0, -1.0, 1.0)


def test_one_group_agrees_with_scipy():
    runs = np.random.default_rng(5).normal(size=12)
    ours = iqm_interval(runs, seed=1, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (runs,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    # Each bound's Monte-Carlo error is about 0.006 here (scipy's bounds of 20 seeds), the interval 1.3 wide.
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)
    assert ours.iqm == pytest.approx(scipy.stats.trim_mean(runs, 0.25))


def test_strata_and_groups_agree_with_scipy():
    rng = np.random.default_rng(6)
    p = {"a": rng.normal(0.0, 1.0, 6), "b": rng.normal(4.0, 1.0, 9)}
    b = {"a": rng.normal(1.0, 1.0, 7), "b": rng.normal(2.0, 1.0, 5)}

    def iqm_ratio(p, b):
        return interquartile_mean(p, axis=1) / interquartile_mean(b, axis=1)

    def scipys(p_a, p_b, b_a, b_b, axis):
        # scipy resamples its four samples independently: strata of two groups, joined here.
        top, bottom = np.concatenate([p_a, p_b], axis=axis), np.concatenate([b_a, b_b], axis=axis)
        return scipy.stats.trim_mean(top, 0.25, axis=axis) / scipy.stats.trim_mean(bottom, 0.25, axis=axis)

    ours = stratified_bootstrap(iqm_ratio, p, b, seed=1, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (p["a"], p["b"], b["a"], b["b"]),
        scipys,
        n_resamples=20_000,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, rel=0.02)
    assert ours.high == pytest.approx(theirs.high, rel=0.02)


def test_strata_narrow_the_interval():
    # Tasks at 0 and 10 without spread between runs: within tasks nothing varies; pooled runs would.
    by_task = stratified_bootstrap(mean_of_each, {"a": [0.0] * 5, "b": [10.0] * 5}, seed=0)
    pooled = stratified_bootstrap(mean_of_each, [0.0] * 5 + [10.0] * 5, seed=0)
    assert by_task == Interval(5.0, 5.0, 5.0)
    assert pooled.high - pooled.low > 4.0


def test_the_interval_covers_the_truth():
    # 400 groups of 20 normals; nominal 95 %, standard error 1.1 %. A 90 % interval would cover about 88 %.
    rng = np.random.default_rng(11)
    intervals = [iqm_interval(rng.normal(3.0, 2.0, 20), seed=k, resamples=1000) for k in range(400)]
    coverage = np.mean([found.low <= 3.0 <= found.high for found in intervals])
    assert 0.91 <= coverage <= 0.98


@SETTINGS
@given(SCORES, st.randoms(use_true_random=False))
def test_order_of_runs_and_tasks_does_not_matter(scores, random):
    shuffled = random.sample(scores, len(scores))
    assert iqm_interval(scores, seed=4, resamples=200) == iqm_interval(shuffled, seed=4, resamples=200)
    forth = iqm_interval({"a": scores, "b": [0.5]}, seed=4, resamples=200)
    assert forth == iqm_interval({"b": [0.5], "a": shuffled}, seed=4, resamples=200)


@SETTINGS
@given(SCORES)
def test_the_interval_lies_within_the_runs_and_holds_the_median_resample(scores):
    found = iqm_interval(scores, resamples=200)
    assert min(scores) - 1e-12 <= found.low <= found.high <= max(scores) + 1e-12


def test_the_seed_decides():
    runs = np.random.default_rng(0).normal(size=10)
    assert iqm_interval(runs, seed=1) == iqm_interval(runs, seed=1)
    assert iqm_interval(runs, seed=1) != iqm_interval(runs, seed=2)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "no scores"),
        ({}, "No task"),
        ({"maze": []}, "no scores of task 'maze'"),
        ({"maze": [1.0, float("inf")]}, "task 'maze' hold a value that is not finite"),
        ([float("nan")], "not finite"),
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
    ],
)
def test_bad_runs_are_refused(runs, words):
    with pytest.raises(GraftError, match=words):
        iqm_interval(runs)


def test_bad_arguments_are_refused():
    with pytest.raises(GraftError, match="different tasks"):
        stratified_bootstrap(lambda p, b: p[:, 0] - b[:, 0], {"a": [1.0]}, {"b": [1.0]}, seed=0)
    with pytest.raises(GraftError, match="reduce axis 1"):
        stratified_bootstrap(lambda scores: scores.mean(), [1.0, 2.0], seed=0)


def test_a_task_with_one_run_adds_no_spread():
    assert iqm_interval([2.0]) == Interval(2.0, 2.0, 2.0)
    both = stratified_bootstrap(mean_of_each, {"a": [5.0], "b": [0.0, 1.0]}, seed=0)
    assert both == Interval(2.0, pytest.approx(5 / 3), pytest.approx(7 / 3))


def test_probability_of_improvement_by_hand():
    # 6 pairs of {1, 2, 3} and {2, 0}: 1>0, 2>0, 3>0, 3>2 win, 2=2 ties, 1<2 loses: (4 + 1/2) / 6.
    assert probability_of_improvement([1.0, 2.0, 3.0], [2.0, 0.0]) == pytest.approx(4.5 / 6)
    # Task a: 1 of 1; task b: (0 + 1/2) / 2 = 1/4. Tasks weigh the same, whatever their runs: (1 + 1/4) / 2.
    x, y = {"a": [1.0], "b": [0.0]}, {"b": [0.0, 5.0], "a": [0.0]}
    assert probability_of_improvement(x, y) == pytest.approx(0.625)


def test_probability_of_improvement_is_scipys_u_statistic():
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 9).astype(float), rng.integers(0, 6, 7).astype(float)
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / (9 * 7))


@SETTINGS
@given(SCORES, SCORES)
def test_probability_of_improvement_is_antisymmetric(x, y):
    assert probability_of_improvement(x, y) == pytest.approx(1 - probability_of_improvement(y, x))
    assert probability_of_improvement(x, x) == pytest.approx(0.5)


def test_probability_of_improvement_needs_the_same_tasks():
    with pytest.raises(GraftError, match=r"\['a'\] and \['b'\]"):
        probability_of_improvement({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(GraftError, match=r"\['a'\] and \['\(unnamed\)'\]"):
        probability_of_improvement({"a": [1.0]}, [1.0])
