"""Procgen through EnvPool: names, levels, and scores of both modes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.procgen import adapter as procgen

INSTALL = "pip install 'graft-rl[games,procgen]'"
COINRUN = "envpool/CoinrunEasy-v0"


def make(num_envs: int = 1, seed: int = 0, **kwargs: Any) -> envs.TaskVectorEnv:
    if find_spec("envpool") is None:
        pytest.skip(INSTALL)
    try:
        return envs.make(Task(COINRUN, kwargs), num_envs, seed)
    except GraftError as error:
        if "Qt 5" in str(error):
            pytest.skip(INSTALL)
        raise


def test_names() -> None:
    env = make()
    assert env.observation_schema.names == ("red", "green", "blue")
    assert env.action_schema.names == procgen.ACTIONS
    assert len(procgen.ACTIONS) == 15
    last = make(channel_first=False)
    assert last.observation_schema == env.observation_schema
    np.testing.assert_array_equal(last.reset()[0], env.reset()[0])


def test_noop_is_the_fifth_action_and_right_the_eighth() -> None:
    assert [procgen.ACTIONS.index(name) for name in ("left", "noop", "right")] == [1, 4, 7]
    still, moving = make(seed=5), make(seed=5)
    still.reset()
    moving.reset()
    for _ in range(10):
        obs, other = still.step(np.array([4]))[0], moving.step(np.array([7]))[0]
    assert (obs != other).mean() > 0.05  # the view follows the runner


def test_levels() -> None:
    one = make(8, num_levels=1, start_level=3).reset()[0]
    assert all(np.array_equal(one[0], other) for other in one)
    every = make(8).reset()[0]
    assert not all(np.array_equal(every[0], other) for other in every)
    assert not np.array_equal(make(num_levels=1, start_level=4).reset()[0], one[:1])
    assert not np.array_equal(make(num_levels=1, start_level=3, use_backgrounds=False).reset()[0], one[:1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_levels": -1}, "num_levels=-1 of envpool/CoinrunEasy-v0 is not allowed; give the number of levels"),
        ({"start_level": -1}, "start_level=-1 of"),
        ({"num_levels": 1.5}, "does not accept num_levels=1.5"),
        ({"distribution_mode": 1}, "Unknown keyword of envpool/CoinrunEasy-v0 'distribution_mode'"),
        ({"num_level": 3}, "Unknown keyword .*num_levels"),
    ],
)
def test_bad_keywords_are_refused(kwargs: dict[str, Any], message: str) -> None:
    make()  # skips where there is no Qt
    with pytest.raises(GraftError, match=message):
        make(**kwargs)


def test_scores() -> None:
    easy, hard = (envs.bounds(Task(f"envpool/Starpilot{mode}-v0")) for mode in ("Easy", "Hard"))
    assert easy is not None
    assert hard is not None
    assert [(b.random, b.expert) for b in (easy, hard)] == [(2.5, 64.0), (1.5, 35.0)]
    assert "Cobbe et al. 2020" in easy.how
    assert len(procgen.SCORES) == 16
    assert envs.bounds(Task("envpool/CaveflyerMemory-v0")) is None
