"""Numbers by hand, and scipy as the independent implementation; coverage is in test_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.transfer.statistics import (
    Estimate,
    Interval,
    bootstrap,
    holm,
    interquartile_mean,
    iqm_estimate,
    iqm_interval,
    is_bimodal,
    performance_profile,
    probability_of_improvement,
    ratio_interval,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
SCORES = st.lists(st.integers(-64, 64).map(lambda k: k / 64), min_size=1, max_size=9)


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


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_without_a_cut_it_is_students_interval(confidence):
    # 3 runs or fewer are averaged whole. The bootstrap's error varies by 1/sqrt(2 * 2000) = 1.6 %.
    for runs in ([0.0, 1.0], [0.2, 0.5, 0.3]):
        found = iqm_interval(runs, confidence)
        low, high = scipy.stats.t.interval(confidence, len(runs) - 1, np.mean(runs), scipy.stats.sem(runs))
        assert found.iqm == pytest.approx(np.mean(runs))
        assert found.high - found.low == pytest.approx(high - low, rel=0.05)


def test_the_error_is_scipys_bootstrap():
    runs = np.random.default_rng(5).normal(size=9)
    theirs = scipy.stats.bootstrap(
        (runs,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        rng=np.random.default_rng(2),
        method="percentile",
    ).standard_error
    found = iqm_estimate(runs)
    assert found.value == pytest.approx(scipy.stats.trim_mean(runs, 0.25))
    assert np.sqrt(found.variance) == pytest.approx(theirs * np.sqrt(9 / 8), rel=0.05)
    assert found.freedom == 8


def test_a_difference_without_a_cut_is_welchs_test():
    p, b = [0.2, 0.5, 0.3], [0.1, 0.9]
    found = iqm_estimate(p) - iqm_estimate(b)
    theirs = scipy.stats.ttest_ind(p, b, equal_var=False)
    assert found.p_value() == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.freedom == pytest.approx(theirs.df, rel=0.1)
    low, high = theirs.confidence_interval()
    assert found.interval()[1:] == pytest.approx((low, high), rel=0.1)


@SETTINGS
@given(SCORES, SCORES)
def test_the_p_value_inverts_the_interval_and_the_ratio_agrees(p, b):
    x, y = iqm_estimate(p, 100), iqm_estimate(b, 100)
    _, low, high = (x - y).interval()
    assert (not low <= 0 <= high) == ((x - y).p_value() < 0.05) or abs(x.value - y.value) < 1e-9
    if y.value > 0 and (x - y).variance > 0:
        ratio = ratio_interval(x, y)
        assert ratio.low <= ratio.iqm <= ratio.high
        if np.isfinite(ratio).all() and min(abs(low), abs(high)) > 1e-9:
            assert (ratio.low <= 1 <= ratio.high) == (low <= 0 <= high)


def test_a_ratio_by_hand():
    # Known to 1e-4 of y: the interval of x divided by y. freedom 1e9: t is 1.96.
    x, y = Estimate(3.0, 0.01, 1e9), Estimate(2.0, 1e-10, 1e9)
    assert ratio_interval(x, y) == pytest.approx((1.5, (3 - 0.196) / 2, (3 + 0.196) / 2), abs=1e-4)
    assert ratio_interval(x._replace(value=-3.0), y) == pytest.approx((-1.5, -1.598, -1.402), abs=1e-3)
    # y may be 0: 2 +- 1.96 * 1.5. |3 - 2 r| = 1.96 * sqrt(0.01 + 2.25 r^2) at r = 0.607 and at no r above.
    low = ratio_interval(x, y._replace(variance=2.25)).low
    assert abs(3 - 2 * low) == pytest.approx(1.96 * np.sqrt(0.01 + 2.25 * low**2), rel=1e-4)
    assert ratio_interval(x, y._replace(variance=2.25)).high == np.inf
    assert ratio_interval(x._replace(variance=9.0), y._replace(variance=2.25))[1:] == (-np.inf, np.inf)
    assert ratio_interval(x._replace(value=0.0, variance=0.0), y._replace(variance=0.0)) == (0.0, 0.0, 0.0)
    with pytest.raises(GraftError, match="denominator above 0"):
        ratio_interval(x, y._replace(value=0.0))


def test_samples_are_resampled_one_at_a_time():
    seen = []

    def statistic(scores, others):
        seen.append((scores.shape, others.shape))
        return scores.mean(axis=(1, 2)) - others.mean(axis=1)

    first, second = np.random.default_rng(1).normal(size=(5, 3)), np.random.default_rng(2).normal(size=4)
    found = bootstrap(statistic, first, second, resamples=50)
    assert seen == [((50, 5, 3), (1, 4)), ((1, 5, 3), (50, 4)), ((1, 5, 3), (1, 4))]
    assert found.value == pytest.approx(first.mean() - second.mean())
    # The error of a difference of means, by the formula.
    found = bootstrap(statistic, first, second, resamples=20_000)
    assert found.variance == pytest.approx(first.mean(axis=1).var(ddof=1) / 5 + second.var(ddof=1) / 4, rel=0.05)


def test_strata_narrow_the_interval():
    # Tasks at 0 and 10 without spread between runs: within tasks nothing varies; pooled runs would.
    assert iqm_interval({"a": [0.0] * 5, "b": [10.0] * 5}) == Interval(5.0, 5.0, 5.0)
    pooled = iqm_interval([0.0] * 5 + [10.0] * 5)
    assert pooled.high - pooled.low > 4.0


@SETTINGS
@given(SCORES, st.randoms(use_true_random=False))
def test_order_of_runs_and_tasks_does_not_matter(scores, random):
    shuffled = random.sample(scores, len(scores))
    assert iqm_estimate(scores, 200) == iqm_estimate(shuffled, 200)
    forth = iqm_estimate({"a": scores, "b": [0.5, 0.6]}, 200)
    assert forth == iqm_estimate({"b": [0.6, 0.5], "a": shuffled}, 200)


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


def test_a_statistic_keeps_the_resamples():
    with pytest.raises(GraftError, match="keep axis 0"):
        bootstrap(lambda scores: scores.mean(), [1.0, 2.0])


def test_a_single_run_has_no_interval():
    assert iqm_interval([2.0]) == Interval(2.0, -np.inf, np.inf)
    assert iqm_interval({"a": [5.0], "b": [0.0, 1.0]}) == Interval(2.0, -np.inf, np.inf)
    assert (iqm_estimate([2.0]) - iqm_estimate([1.0, 1.1])).p_value() == 1.0


def test_holm_by_hand():
    # Sorted .01, .02, .04 times 3, 2, 1: .03, .04, .04; never falling, never above 1.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([0.0, 0.02, 0.8, 0.9, 0.85], True),
        ([0.0, 0.7, 0.8, 0.9, 0.85], False),  # one alone
        ([0.5, 0.501, 0.6, 0.601], False),  # too close to matter
        ([0.1, 0.3, 0.5, 0.7, 0.9], False),
        ([0.0, 0.0, 0.9], False),
        ([0.4] * 6, False),
    ],
)
def test_two_groups_of_seeds_are_seen(runs, expected):
    assert is_bimodal(runs) is expected


def test_how_often_one_group_is_called_two():
    rng = np.random.default_rng(0)
    for count in (4, 5, 8, 10):
        assert np.mean([is_bimodal(100 * rng.normal(size=count)) for _ in range(1500)]) < 0.055  # .04, error .005
        assert np.mean([is_bimodal(100 * rng.lognormal(size=count)) for _ in range(1500)]) < 0.09
    either = rng.random((1500, 8)) < 0.5
    runs = np.where(either, rng.normal(0.02, 0.03, either.shape), rng.normal(0.8, 0.1, either.shape))
    assert np.mean([is_bimodal(line) for line in runs]) > 0.8


def test_a_profile_by_hand():
    shares, low, high = performance_profile({"a": [0.1, 0.5, 0.9], "b": [0.5]}, [0.0, 0.5, 1.0])
    assert shares.tolist() == [1.0, 0.25, 0.0]  # above, not at
    for i, successes in enumerate((4, 1, 0)):
        theirs = scipy.stats.binomtest(successes, 4).proportion_ci(0.95, "exact")
        assert (low[i], high[i]) == pytest.approx((theirs.low, theirs.high))


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
