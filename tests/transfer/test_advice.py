"""The race against a plain loop's budget, who is dropped when, and what is decided; paired gains against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graft.errors import GraftError
from graft.transfer.advice import Look, gain, is_clear, race


class Trainer:
    """Returns follow a rule, in the mean; records what was asked of it."""

    def __init__(self, rule, noise=0.0):
        self.rule, self.noise, self.asked = rule, noise, []

    def __call__(self, candidate, env_steps):
        self.asked.append((candidate, env_steps))
        value = self.rule(candidate, env_steps)
        if value is None:
            return None
        dice = np.random.default_rng([len(candidate), ord(candidate[-1]), env_steps])
        apart = dice.standard_normal(64)
        return Look(value + self.noise * (apart - apart.mean()), env_steps, 64 * 7)


def test_the_worse_half_leaves_and_the_budget_is_kept():
    slopes = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 2.0, "scratch": 0.5}
    train = Trainer(lambda c, n: slopes[c] * n / 100, noise=45)
    found = race(list(slopes), train, budget=3000, unit=10)
    assert found.pick == "b"
    assert [set(r.dropped) for r in found.rounds] == [{"a", "d"}, {"c"}, set()]
    # 1000 for 5, what is left in halves for 3 and 2.
    assert [r.env_steps for r in found.rounds] == [200, 530, 1030]
    assert found.episode_steps == 10 * 64 * 7
    assert found.spent == {"a": 200, "b": 1030, "c": 530, "d": 200, "scratch": 1030}
    assert sum(found.spent.values()) <= 3000


@pytest.mark.parametrize("budget", [0, 1, 9, 20, 50, 73, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("goes_on", [False, True])
def test_no_budget_is_exceeded(budget, count, goes_on):
    names = [*"abcdef"[: count - 1], "scratch"]
    found = race(names, Trainer(lambda c, n: 0.0, noise=1), budget, unit=7, goes_on=goes_on)
    assert sum(found.spent.values()) - goes_on * found.spent[found.pick] <= budget
    assert all(steps % 7 == 0 for steps in found.spent.values())
    assert found.pick == "scratch"  # nothing is clearly better


def test_everybody_trains_first_if_the_budget_allows_and_a_clear_lead_ends_it_then():
    """As by default at 61,440 env steps, of which 15 % are 4 rollouts and a half."""
    train = Trainer(lambda c, n: 5.0 * (c == "b"), noise=1)
    found = race(["a", "b", "scratch"], train, 9216, 2048, goes_on=True)
    assert (found.pick, found.spent) == ("b", {"a": 2048, "b": 2048, "scratch": 2048})
    train = Trainer(lambda c, n: -0.1 * (c == "b"), noise=1)
    found = race(["a", "b", "scratch"], train, 9216, 2048, goes_on=True)
    assert (found.pick, found.spent) == ("scratch", {"a": 6144, "b": 2048, "scratch": 6144})
    assert [r.env_steps for r in found.rounds] == [2048, 6144]


def test_fresh_heads_may_win_though_nothing_without_training():
    train = Trainer(lambda c, n: {"carried": 0.1, "fresh": n / 100, "scratch": 0.0}[c], noise=1)
    assert race(["carried", "fresh", "scratch"], train, 9216, 2048).pick == "fresh"


def test_a_start_that_scratch_overtakes_is_not_kept():
    train = Trainer(lambda c, n: 5.0 + n * 0.82 / 8192 if c == "a" else n * 40.96 / 8192, noise=1)
    assert race(["a", "scratch"], train, 9216, 2048, goes_on=True).pick == "scratch"


def test_the_worst_leave_untrained_where_the_budget_is_too_small_for_all():
    train = Trainer(lambda c, n: float("abcdscratch".index(c)), noise=1)
    found = race([*"abcd", "scratch"], train, 30, 10)
    assert found.rounds[0].env_steps == 0
    assert found.rounds[0].dropped == ("a", "b")
    assert found.spent == {"a": 0, "b": 0, "c": 10, "d": 10, "scratch": 10}


def test_what_was_trained_beyond_what_was_asked_counts():
    def train(candidate, env_steps):
        return Look(np.arange(9.0), env_steps + 3, 9)

    found = race(["a", "scratch"], train, 46, 10)
    assert found.spent == {"a": 23, "scratch": 23}


def test_of_equal_candidates_the_first_is_taken():
    assert race(["a", "b", "scratch"], Trainer(lambda c, n: float(c != "scratch") * n), 100).pick == "a"


def test_what_diverges_leaves_and_scratch_must_not():
    found = race(["a", "b", "scratch"], Trainer(lambda c, n: None if c == "a" and n else n * (c == "b")), 100)
    assert found.pick == "b"
    assert "a" not in found.latest
    with pytest.raises(GraftError, match="scratch diverged"):
        race(["a", "scratch"], Trainer(lambda c, n: None if c == "scratch" and n else n * 0.0), 100)


def test_gains_are_those_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    level = 3 * rng.standard_normal(40)
    x, y = level + 0.5 + 0.3 * rng.standard_normal(40), level
    test = stats.ttest_rel(x, y)
    found = gain(x, y)
    assert found[:3] == pytest.approx((np.mean(x - y), *test.confidence_interval(0.95)))
    assert found.p == pytest.approx(stats.ttest_rel(x, y, alternative="greater").pvalue)
    assert is_clear(x, y) == (test.statistic >= 3)
    assert gain(y, y) == (0, 0, 0, 0.5)
    assert not is_clear(y, y)
