"""The race against a plain loop's budget, who is dropped when, and what is decided; paired gains against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graft.errors import GraftError
from graft.transfer.advice import gain, is_clear, race, watch


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
        return value + self.noise * (apart - apart.mean())


def test_the_worse_half_leaves_and_the_budget_is_kept():
    slopes = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 2.0, "scratch": 0.5}
    train = Trainer(lambda c, n: slopes[c] * n / 100, noise=45)
    found = race(list(slopes), train, budget=3000, unit=10)
    assert found.pick == "b"
    assert [set(r.dropped) for r in found.rounds] == [set(), {"a", "d"}, {"c"}, set()]
    # 1000 for 5, what is left in halves for 3 and 2.
    assert [r.env_steps for r in found.rounds] == [0, 200, 530, 1030]
    assert found.spent == {"a": 200, "b": 1030, "c": 530, "d": 200, "scratch": 1030}
    assert sum(found.spent.values()) <= 3000


@pytest.mark.parametrize("budget", [0, 1, 9, 20, 50, 73, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_no_budget_is_exceeded(budget, count):
    names = [*"abcdef"[: count - 1], "scratch"]
    found = race(names, Trainer(lambda c, n: 0.0, noise=1), budget, unit=7)
    assert sum(found.spent.values()) <= budget
    assert all(steps % 7 == 0 for steps in found.spent.values())
    assert found.pick == "scratch"  # nothing is clearly better


def test_a_clear_lead_ends_the_race_before_training():
    train = Trainer(lambda c, n: 5.0 * (c == "b"), noise=1)
    found = race(["a", "b", "scratch"], train, 1000)
    assert (found.pick, len(found.rounds), sum(found.spent.values())) == ("b", 1, 0)
    found = race(["a", "b", "scratch"], train, 1000, untrained=False)
    assert (found.pick, found.spent) == ("b", {"a": 166, "b": 166, "scratch": 166})


def test_of_equal_candidates_the_first_is_taken():
    assert race(["a", "b", "scratch"], Trainer(lambda c, n: float(c != "scratch") * n), 100).pick == "a"


def test_what_diverges_leaves_and_scratch_must_not():
    found = race(["a", "b", "scratch"], Trainer(lambda c, n: None if c == "a" and n else n * (c == "b")), 100)
    assert found.pick == "b"
    assert "a" not in found.latest
    with pytest.raises(GraftError, match="scratch diverged"):
        race(["a", "scratch"], Trainer(lambda c, n: None if c == "scratch" and n else n * 0.0), 100)


@pytest.mark.parametrize(
    ("learns", "scratch", "kept", "asked"),
    [
        (0.1, 9.0, "a", [("a", 100)]),
        (0.0, 0.01, "a", [("a", 100), ("scratch", 100)]),
        (0.0, 0.1, "scratch", [("a", 100), ("scratch", 100)]),
    ],
)
def test_a_pick_is_watched(learns, scratch, kept, asked):
    def rule(candidate, env_steps):
        return 5.0 + learns * env_steps if candidate == "a" else scratch * env_steps

    train = Trainer(rule, noise=1)
    found = race(["a", "scratch"], train, 109, unit=10)
    assert found.spent == {"a": 0, "scratch": 0}
    train.asked.clear()
    seen = watch(found, train, 109, unit=10)
    assert (seen.kept, train.asked) == (kept, asked)
    assert sum(seen.spent.values()) - seen.spent[kept] <= 109


def test_no_watch_where_scratch_was_trained_or_picked():
    trained = race(["a", "scratch"], Trainer(lambda c, n: n * (c == "a"), noise=0), 100)
    assert trained.spent["scratch"] > 0
    assert watch(trained, Trainer(lambda c, n: 0.0), 100) is None


def test_gains_are_those_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    level = 3 * rng.standard_normal(40)
    x, y = level + 0.5 + 0.3 * rng.standard_normal(40), level
    test = stats.ttest_rel(x, y)
    found = gain(x, y)
    assert found[:3] == pytest.approx((np.mean(x - y), *test.confidence_interval(0.95)))
    assert found.probability == pytest.approx(1 - stats.ttest_rel(x, y, alternative="greater").pvalue)
    assert is_clear(x, y) == (test.statistic >= 3)
    assert gain(y, y) == (0, 0, 0, 0.5)
    assert not is_clear(y, y)
