"""Drawn values: their distributions, their random numbers, when they are drawn, and what is not allowed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from graft.envs import GraftError
from graft.envs.adapters.gymnasium.randomisation import Randomisation, RandomValue, parse
from graft.envs.builtin.engine.mechanics import Mechanic

MASS = Mechanic("mass", "scale of all masses", 1.0, 0.1, 10.0)
DELAY = Mechanic("delay", "steps until an action has its effect", 0, 0, 10)
WIND = Mechanic("wind", "whether it blows", False)


def sample(value: Any, mechanic: Mechanic = MASS, count: int = 4000) -> Any:
    draw, rng = parse("Hopper-v5", mechanic, value), np.random.default_rng(0)
    assert isinstance(draw, RandomValue)
    return np.array([draw.sample(rng) for _ in range(count)])


@pytest.mark.parametrize(
    ("value", "cdf"),
    [
        ({"uniform": [0.5, 2]}, stats.uniform(0.5, 1.5).cdf),
        ({"log_uniform": [0.5, 2]}, stats.loguniform(0.5, 2).cdf),
        ({"gaussian": [1, 0.2]}, stats.norm(1, 0.2).cdf),  # the range is 4.5 standard deviations away
        ({"gaussian": [0.5, 2]}, stats.truncnorm((0.1 - 0.5) / 2, (10 - 0.5) / 2, 0.5, 2).cdf),
    ],
)
def test_values_follow_their_distribution(value: Any, cdf: Any) -> None:
    values = sample(value)
    assert stats.kstest(values, cdf).pvalue > 0.01
    assert values.min() >= MASS.low
    assert values.max() <= MASS.high


def test_whole_numbers_are_drawn_whole_with_both_ends() -> None:
    values = sample({"uniform": [1, 3]}, DELAY)
    assert values.dtype.kind == "i"
    found, counts = np.unique(values, return_counts=True)
    assert found.tolist() == [1, 2, 3]
    assert stats.chisquare(counts).pvalue > 0.01
    assert set(sample({"log_uniform": [1, 8]}, DELAY).tolist()) == set(range(1, 9))
    assert set(sample({"gaussian": [0, 1]}, DELAY).tolist()) <= set(range(11))


def test_a_number_stays_one() -> None:
    assert parse("Hopper-v5", MASS, 2) == 2.0
    assert parse("Hopper-v5", DELAY, 3) == 3
    assert sample({"uniform": [2, 2]}, count=3).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (20.0, r"Hopper-v5: mass=20.0 is not allowed; it is a number from 0.1 to 10 \(scale of all masses\)"),
        (True, "mass=True is not allowed"),
        (math.nan, "mass=nan is not allowed"),
        ("heavy", "mass='heavy' is not allowed"),
        ({"unifrom": [1, 2]}, "Unknown distribution of mass of Hopper-v5 'unifrom'.*Did you mean 'uniform'"),
        ({"uniform": [1, 2], "gaussian": [1, 2]}, r"give one of \{uniform: \[low, high\]\}, \{log_uniform"),
        ({"every": 3}, "give one of"),
        ({"uniform": 2}, r"uniform takes two numbers, \[low, high\]"),
        ({"gaussian": [1, "a"]}, r"gaussian takes two numbers, \[mean, std\]"),
        ({"uniform": [2, 1]}, "from low to high"),
        ({"uniform": [0.01, 1]}, "mass is within 0.1 to 10"),
        ({"log_uniform": [1, 11]}, "mass is within 0.1 to 10"),
        ({"uniform": [1, math.inf]}, "mass is within 0.1 to 10"),
        ({"gaussian": [11, 1]}, "the mean is 11, but mass is within"),
        ({"gaussian": [1, -1]}, "the standard deviation is -1, but it is within 0 to 9.9"),
        ({"gaussian": [1, 1e6]}, "the standard deviation is 1e[+]06"),
        ({"uniform": [1, 2], "every": 0}, "every is a whole number of steps from 1"),
        ({"uniform": [1, 2], "every": 2.5}, "every is a whole number of steps from 1"),
    ],
)
def test_what_is_not_allowed_is_said(value: Any, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        parse("Hopper-v5", MASS, value)


def test_what_kinds_of_mechanics_cannot_be_drawn_so() -> None:
    with pytest.raises(GraftError, match="it is true or false and can't be drawn"):
        parse("x", WIND, {"uniform": [0, 1]})
    with pytest.raises(GraftError, match="delay is a whole number, and so are its limits"):
        parse("x", DELAY, {"uniform": [0, 1.5]})
    with pytest.raises(GraftError, match="log_uniform needs numbers above 0"):
        parse("x", DELAY, {"log_uniform": [0, 4]})


def draws(**values: Any) -> Randomisation:
    mechanics = {"mass": MASS, "delay": DELAY, "friction": Mechanic("friction", "", 1.0, 0.0, 10.0)}
    return Randomisation({name: parse("x", mechanics[name], value) for name, value in values.items()})


def played(drawn: Randomisation, name: str, resets: int = 5) -> list[float]:
    out = []
    for _ in range(resets):
        drawn.reset()
        out.append(drawn.values[name])
    return out


def test_a_seed_decides_and_mechanics_do_not_disturb_each_other() -> None:
    alone, both, other = (
        draws(mass={"uniform": [1, 2]}),
        draws(friction={"uniform": [1, 2]}, mass={"uniform": [1, 2]}),
        draws(mass={"uniform": [1, 2]}),
    )
    for one, seed in ((alone, 3), (both, 3), (other, 4)):
        one.seed(seed)
    values = played(alone, "mass")
    assert len(set(values)) == 5
    assert played(both, "mass") == values
    assert played(other, "mass") != values
    alone.seed(3)
    both.seed(3)
    both.reset()
    alone.reset()
    assert both.values["friction"] != both.values["mass"] == alone.values["mass"]


def test_every_counts_the_steps_of_an_episode() -> None:
    drawn = draws(mass={"uniform": [1, 2], "every": 3}, friction={"uniform": [1, 2]}, delay=4)
    assert drawn.recurring
    drawn.seed(0)
    drawn.reset()
    friction, seen = drawn.values["friction"], [drawn.values["mass"]]
    told = []
    for _ in range(7):
        told.append(drawn.advance())
        seen.append(drawn.values["mass"])
    assert told == [False, False, True, False, False, True, False]
    assert len(set(seen)) == 3
    assert drawn.values == {"mass": seen[-1], "friction": friction, "delay": 4}
    drawn.reset()
    assert not drawn.advance()  # the count begins anew
    assert not drawn.advance()
    assert drawn.advance()
