"""Numbers by hand, numpy's trapezoid rule, and the invariances that the definitions promise."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.transfer import metrics
from graft.transfer.metrics import Curve
from graft.transfer.statistics import iqm_estimate

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)
SCORE = st.integers(-64, 64).map(lambda k: k / 64)
GROUP = st.lists(SCORE, min_size=2, max_size=7)
NAN = float("nan")


def curve(*scores):
    """Evaluations every 10 env steps."""
    return Curve(range(0, 10 * len(scores), 10), scores)


def test_curve_stores_plain_tuples():
    made = Curve(np.array([0, 5]), np.array([0.25, 1.0]))
    assert (made.steps, made.scores) == ((0, 5), (0.25, 1.0))
    assert all(type(step) is int for step in made.steps)
    assert made == Curve([0, 5], [0.25, 1])
    with pytest.raises(FrozenInstanceError):
        made.steps = (0, 6)


@pytest.mark.parametrize(
    ("steps", "scores", "words"),
    [
        ([], [], "is empty"),
        ([1, 2], [0.0, 0.0], "starts at env step 1"),
        ([0, 2, 2], [0.0] * 3, "2 after 2"),
        ([0, 3, 1], [0.0] * 3, "1 after 3"),
        ([0, 1], [0.0], "2 env steps and 1 scores"),
        ([0, 1], [0.0, NAN], "score nan at env step 1"),
        ([0, 1], [math.inf, 0.0], "score inf at env step 0"),
        ([0, 1.5], [0.0, 0.0], "whole numbers"),
        ([0, math.inf], [0.0, 0.0], "whole numbers"),
        ([NAN], [0.0], "whole numbers"),
    ],
)
def test_bad_curves_are_refused(steps, scores, words):
    with pytest.raises(GraftError, match=words):
        Curve(steps, scores)


def test_area_by_hand():
    # Trapezoids: 10 * (0 + 1)/2 = 5, then 30 * (1 + 0.5)/2 = 22.5; 27.5 / 40 steps.
    assert metrics.area(Curve([0, 10, 40], [0.0, 1.0, 0.5])) == pytest.approx(0.6875)
    assert metrics.area(Curve([0], [0.3])) == 0.3


@SETTINGS
@given(st.lists(st.tuples(st.integers(1, 100), SCORE), min_size=1, max_size=20), SCORE)
def test_area_is_a_time_mean(evaluations, first):
    steps = np.cumsum([0, *(gap for gap, _ in evaluations)])
    scores = np.array([first, *(score for _, score in evaluations)])
    found = metrics.area(Curve(steps, scores))
    assert found == pytest.approx(np.trapezoid(scores, steps) / steps[-1])
    assert scores.min() - 1e-12 <= found <= scores.max() + 1e-12
    assert metrics.area(Curve(1000 * steps, scores)) == pytest.approx(found)  # The unit of time cancels.
    assert metrics.area(Curve(steps, 2 * scores + 1)) == pytest.approx(2 * found + 1)


def test_jumpstart_by_hand():
    assert metrics.jumpstart(curve(0.5, 0.0), curve(0.125, 1.0)) == 0.375


def test_final_score_by_hand():
    # Last step 100: the evaluations at 90 and 100 count, not the one at 80.
    assert metrics.final_score(curve(*[0.0] * 8, 9.0, 0.5, 0.7)) == pytest.approx(0.6)
    # Unevenly spaced: 0.9 * 100 = 90, so 89 is out; the evaluations weigh the same, (1 + 3 + 2) / 3.
    assert metrics.final_score(Curve([0, 89, 90, 91, 100], [9.0, 9.0, 1.0, 3.0, 2.0])) == pytest.approx(2.0)
    # A coarse curve has only its last evaluation there.
    assert metrics.final_score(curve(0.0, 0.2, 0.9)) == pytest.approx(0.9)


@pytest.mark.parametrize("last", range(10, 2000, 10))
def test_final_score_keeps_the_evaluation_at_nine_tenths(last):
    assert metrics.final_score(Curve([0, last * 9 // 10, last], [0.0, 1.0, 2.0])) == 1.5


def test_final_score_of_equal_scores_is_that_score():
    # In floats (0.1 + 0.1 + 0.1) / 3 > 0.1.
    assert metrics.final_score(Curve([0, 90, 95, 100], [0.0, 0.1, 0.1, 0.1])) == 0.1


@pytest.mark.parametrize("compare", [metrics.jumpstart, metrics.data_efficiency])
def test_curves_must_share_their_steps(compare):
    with pytest.raises(GraftError, match=r"3 evaluations up to env step 20 .* 2 up to 10; evaluate both"):
        compare(curve(0.0, 0.5, 1.0), curve(0.0, 0.5))
    with pytest.raises(GraftError, match="first apart at 10 and 11"):
        compare(curve(0.0, 0.5, 1.0), Curve([0, 11, 20], [0.0, 0.5, 1.0]))


def test_transfer_ratio_by_hand():
    # No spread: (0.6 - 0.4) / 0.4 = 0.5 in every resample.
    assert metrics.transfer_ratio([0.6] * 5, [0.4] * 3) == pytest.approx((0.5, 0.5, 0.5))
    # IQM of p: 1 cut each end of {0, .5, .6, .7, 9}: 0.6; of b: mean of {.2, .3, .4}: 0.3; (0.6 - 0.3) / 0.3 = 1.
    found = metrics.transfer_ratio([0.0, 0.5, 0.6, 0.7, 9.0], [0.2, 0.3, 0.4])
    assert found.iqm == pytest.approx(1.0)
    assert found.low < 1.0 < found.high


def test_transfer_ratio_knows_the_error_of_both_groups():
    p, b = [0.70, 0.75, 0.80, 0.85], [0.45, 0.50, 0.52, 0.55]
    whole, of_p, of_b = (metrics.transfer_ratio(*groups) for groups in ((p, b), (p, [0.51] * 4), ([0.775] * 4, b)))
    assert whole.iqm == pytest.approx(0.775 / 0.51 - 1) == of_p.iqm == of_b.iqm
    assert whole.high - whole.low > max(of_p.high - of_p.low, of_b.high - of_b.low) > 0


def test_transfer_ratio_of_an_unsure_scratch_has_no_upper_end():
    # The interval of {0.05, 0.5, 0.1, 0.4} holds 0, where the ratio is infinite.
    found = metrics.transfer_ratio([0.8, 0.82, 0.84, 0.86], [0.05, 0.5, 0.1, 0.4])
    assert found.iqm == pytest.approx(0.83 / 0.25 - 1)
    assert -1 < found.low < found.iqm
    assert found.high == math.inf


@pytest.mark.parametrize("auc_b", [0.009, 0.0, -0.5])
def test_transfer_ratio_over_nothing_is_undefined(auc_b):
    assert metrics.transfer_ratio([0.5] * 3, [auc_b] * 3) is None


def test_where_the_ratio_is_undefined_it_has_a_bound():
    # Against a scratch at 0.01: (0.5 - 0.01) / 0.01 = 49.
    assert metrics.transfer_ratio_bound([0.5] * 3, [0.0] * 3) == pytest.approx(49.0)
    # A scratch at 0.01 at least may be higher by its own error, so that the ratio is at least 0.5 / (0.01 + error) - 1.
    scratch = [-0.01, 0.0, 0.01, 0.02]
    error = scipy.stats.t.ppf(0.975, 3) * math.sqrt(iqm_estimate(scratch).variance)
    assert metrics.transfer_ratio_bound([0.5] * 4, scratch) == pytest.approx(0.5 / (0.01 + error) - 1)
    assert metrics.transfer_ratio_bound([0.01] * 3, [0.0] * 3) is None
    assert metrics.transfer_ratio_bound([-1.0, 0.5], [0.0] * 3) is None


@pytest.mark.parametrize(
    ("scores", "hold", "expected"),
    [
        ([0.0, 0.5, 0.6, 0.7], 3, 10),
        ([0.5, 0.5, 0.5, 0.0], 3, 0),  # At the threshold counts, from step 0, whatever comes later.
        ([0.9, 0.9, 0.4, 0.9, 0.9, 0.9], 3, 30),  # Two held, a dip, then three.
        ([0.0, 0.0, 0.9, 0.9], 3, None),  # Only two evaluations left at the end.
        ([0.0, 0.0, 0.9, 0.9], 2, 20),
        ([0.0, 0.9, 0.0, 0.9], 1, 10),
        ([0.9, 0.0, 0.9, 0.0], 2, None),
        ([0.9], 1, 0),
        ([0.4999, 0.4999, 0.4999], 1, None),
    ],
)
def test_steps_to_threshold_by_hand(scores, hold, expected):
    assert metrics.steps_to_threshold(curve(*scores), 0.5, hold) == expected


@pytest.mark.parametrize(
    ("before", "slow", "fast", "expected"),
    [(100, 50, 25, 4), (101, 50, 25, 5), (0, 50, 25, 0), (100, 50, 50, None), (100, 50, None, None), (100, 50, 0.0, 2)],
)
def test_pretraining_has_paid_when_transfers_have_saved_it(before, slow, fast, expected):
    assert metrics.break_even(before, slow, fast) == expected
    if expected:
        assert expected * (slow - fast) >= before > (expected - 1) * (slow - fast)


def test_steps_to_threshold_holds_for_three_unless_told():
    assert metrics.steps_to_threshold(curve(0.9, 0.9, 0.0, 0.9, 0.9, 0.9), 0.5) == 30
    with pytest.raises(GraftError, match="got hold 0"):
        metrics.steps_to_threshold(curve(1.0), 0.5, hold=0)


@SETTINGS
@given(st.lists(SCORE, min_size=1, max_size=12), SCORE, st.integers(1, 4))
def test_steps_to_threshold_against_the_definition(scores, threshold, hold):
    fits = [k for k in range(len(scores) - hold + 1) if min(scores[k : k + hold]) >= threshold]
    expected = 10 * fits[0] if fits else None
    assert metrics.steps_to_threshold(curve(*scores), threshold, hold) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([30], 30),
        ([None], None),
        ([10, 40], 25),
        ([10, None], None),  # Half of them never.
        ([40, None, 10], 40),  # 10, 40, never: the middle one.
        ([40, None, None], None),
        ([10, 20, 60, None], 40),  # 10, 20, 60, never: (20 + 60) / 2.
        ([None, 50, 10, None, 30], 50),  # 10, 30, 50, never, never.
        ([0, 0, None], 0),  # Step 0 is not "never".
    ],
)
def test_aggregate_steps_to_threshold_by_hand(steps, expected):
    assert metrics.aggregate_steps_to_threshold(steps) == expected


def test_aggregate_steps_to_threshold_needs_seeds():
    with pytest.raises(GraftError, match="no seeds"):
        metrics.aggregate_steps_to_threshold([])


@SETTINGS
@given(st.lists(st.one_of(st.none(), st.integers(0, 1000)), min_size=1, max_size=9))
def test_aggregate_steps_to_threshold_is_a_median_with_never_last(steps):
    middle = np.sort([math.inf if step is None else step for step in steps])
    middle = (middle[(len(steps) - 1) // 2] + middle[len(steps) // 2]) / 2
    assert metrics.aggregate_steps_to_threshold(steps) == (None if math.isinf(middle) else middle)


def test_data_efficiency_by_hand():
    # Scratch ends at 0.8 (the evaluation at 40), first reached at 40; the method is at 0.8 by 10: 40 / 10.
    b = curve(0.0, 0.2, 0.4, 0.6, 0.8)
    assert metrics.data_efficiency(curve(0.1, 0.9, 0.9, 0.9, 0.9), b) == 4.0
    assert metrics.data_efficiency(b, b) == 1.0
    assert metrics.data_efficiency(curve(0.0, 0.1, 0.2, 0.3, 0.4), b) is None
    # Scratch at 10, the method at 40: slower.
    assert metrics.data_efficiency(b, curve(0.0, 0.8, 0.8, 0.8, 0.8)) == 0.25


def test_data_efficiency_at_step_0_and_held():
    rising, there = curve(0.0, 0.5, 0.5), curve(0.5, 0.5, 0.5)
    assert metrics.data_efficiency(there, rising) == math.inf
    assert metrics.data_efficiency(there, there) == 1.0
    # Held for 3 evaluations, scratch is there from step 10 only in a curve that goes on to step 30.
    assert metrics.data_efficiency(there, rising, hold=3) is None
    assert metrics.data_efficiency(curve(0, 0, 1, 1, 1), curve(0, 1, 1, 1, 1), hold=3) == 0.5


@SETTINGS
@given(st.lists(st.floats(-1, 2), min_size=1, max_size=25))
def test_scratch_always_reaches_its_own_final_score(scores):
    b = curve(*scores)
    assert metrics.data_efficiency(b, b) == 1.0


def test_forward_transfer_by_hand():
    # (0.75 - 0.5) / (1 - 0.5) = 0.5, the other way -0.25 / 0.25.
    assert metrics.forward_transfer(0.75, 0.5) == pytest.approx(0.5)
    assert metrics.forward_transfer(0.5, 0.75) == pytest.approx(-1.0)
    assert metrics.forward_transfer(0.75, 0.995) is None
    assert metrics.forward_transfer(0.75, 1.5) is None  # Above the expert: the sign would flip.


def verdict(p, b):
    """Of a table with this method alone."""
    return metrics.verdicts([(p, b)])[0].verdict


def test_verdict_by_hand():
    # 4 runs each, 1 cut each end; the error of the mean of the middle two of {0, .1, .2, .3} is about 0.07.
    b = [0.0, 0.1, 0.2, 0.3]
    assert verdict([0.8, 0.9, 1.0, 1.1], b) == "positive"  # 0.8 +- 2.4 * 0.11
    assert verdict([-0.8, -0.7, -0.6, -0.5], b) == "negative"
    assert verdict([0.2, 0.3, 0.4, 0.5], b) == "unclear"  # 0.2 +- 2.4 * 0.11
    assert verdict([0.5] * 4, [0.5] * 4) == "unclear"


def test_verdicts_are_corrected_for_their_number():
    rng = np.random.default_rng(0)
    scratch, better = rng.normal(0.5, 0.05, 5), rng.normal(0.6, 0.05, 5)
    found = metrics.verdicts([(better, scratch)] + [(rng.normal(0.5, 0.05, 5), scratch) for _ in range(17)])
    p_value = metrics.difference(better, scratch).p_value()
    assert found[0] == ("unclear", "positive", p_value, pytest.approx(18 * p_value))
    assert metrics.verdicts([(better, scratch)])[0] == ("positive", "positive", p_value, p_value)
    assert 0.05 / 18 < p_value < 0.05
    few = metrics.verdicts([(better, scratch), (better[:3], scratch)])
    assert few == [("positive", "positive", p_value, p_value), ("unclear", "unclear", None, None)]


@pytest.mark.parametrize(
    ("p", "b"),
    [
        ([9.0] * 3, [0.0] * 5),
        ([9.0] * 5, [0.0] * 3),
        ({"a": [9.0] * 5, "b": [9.0] * 3}, {"a": [0.0] * 5, "b": [0.0] * 5}),
    ],
)
def test_verdict_needs_four_seeds(p, b):
    assert verdict(p, b) == "unclear"


def test_verdict_does_not_rest_on_rounding():
    # The IQM of five times 0.1 is 0.3 / 3 in floats, which need not be the IQM of four times 0.1.
    for count in range(4, 12):
        for other in range(4, 12):
            assert verdict([0.1] * count, [0.1] * other) == "unclear"


@SETTINGS
@given(GROUP, GROUP, SCORE, st.randoms(use_true_random=False))
def test_verdict_knows_no_order_and_no_shift(p, b, shift, random):
    p, b = p * 4, b * 4
    found = verdict(p, b)
    shuffled = random.sample(p, len(p)), random.sample(b, len(b))
    assert verdict(*shuffled) == found
    moved = [score + shift for score in p], [score + shift for score in b]
    assert verdict(*moved) == found


@SETTINGS
@given(GROUP, GROUP)
def test_ratio_and_verdict_agree(p, b):
    ratio, found = metrics.transfer_ratio(p * 4, b * 4), verdict(p * 4, b * 4)
    if ratio is not None and found != "unclear":
        assert (ratio.iqm > 0) == (found == "positive")
    if ratio is not None and (ratio.low > 0 or ratio.high < 0) and abs(ratio.iqm) > 1e-6:
        assert found != "unclear"


# R[k, j]: row = after task k, column = score on task j; what was not measured is NaN.
MATRIX = np.array([[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.3, 0.6, 0.7]])


def test_matrix_metrics_by_hand():
    # Last row: (0.3 + 0.6 + 0.7) / 3 = 1.6 / 3.
    assert metrics.average_performance(MATRIX) == pytest.approx(1.6 / 3)
    # Lost: 0.9 - 0.3 = 0.6, 0.8 - 0.6 = 0.2, 0.7 - 0.7 = 0; over three tasks 0.8 / 3, over the first two 0.4.
    assert metrics.forgetting(MATRIX) == pytest.approx(0.8 / 3)
    assert metrics.forgetting(MATRIX, include_last=False) == pytest.approx(0.4)
    assert metrics.backward_transfer(MATRIX) == pytest.approx(-0.4)


def test_backward_transfer_is_positive_where_later_tasks_helped():
    # (0.75 - 0.5) over the one task before the last; the upper right corner is never read.
    assert metrics.backward_transfer([[0.5, 99.0], [0.75, 1.0]]) == 0.25


def test_matrix_metrics_of_one_task():
    assert metrics.average_performance([[0.5]]) == 0.5
    assert metrics.forgetting([[0.5]]) == 0.0
    with pytest.raises(GraftError, match="Backward transfer is undefined for 1 task"):
        metrics.forgetting([[0.5]], include_last=False)
    with pytest.raises(GraftError, match="Backward transfer is undefined for 1 task"):
        metrics.backward_transfer([[0.5]])


@pytest.mark.parametrize("metric", [metrics.average_performance, metrics.forgetting, metrics.backward_transfer])
def test_bad_matrices_are_refused(metric):
    for shape in [(2, 3), (4,), (0, 0)]:
        with pytest.raises(GraftError, match="shape"):
            metric(np.zeros(shape))
    for unmeasured in [(0, 0), (2, 1)]:
        broken = MATRIX.copy()
        broken[unmeasured] = NAN
        with pytest.raises(GraftError, match="not finite"):
            metric(broken)
