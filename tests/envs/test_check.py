"""What is found when a task is checked, before anything is trained: episodes that never end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft.envs import GraftError, Task, factory
from graft.envs.factory import check


class Endless(gym.Env[Any, Any]):
    """Ends after ``steps`` steps, 0 for never; counts those of all instances."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    played = 0

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        Endless.played += 1
        return np.zeros(1, np.float32), 1.0, self.taken == self.steps, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    Endless.played = 0
    gym.register("Endless-v0", entry_point=Endless)
    yield
    del gym.registry["Endless-v0"]


def test_episodes_that_never_end_are_found() -> None:
    said = (
        r"No episode of Endless ended within 700 steps of random actions, and it has no max_episode_steps; give it a "
        r"time limit, such as kwargs: \{max_episode_steps: 500\}, or, .* evaluation: \{max_steps: 7000\}\."
    )
    with pytest.raises(GraftError, match=said):
        check(Task("Endless-v0"), longest=700)
    assert Endless.played == 700
    with pytest.raises(GraftError, match=r"its max_episode_steps is 2000; .* evaluation: \{max_steps: 2000\}"):
        check(Task("Endless-v0", {"max_episode_steps": 2000}), longest=700)


@pytest.mark.parametrize(
    ("kwargs", "longest", "played"),
    [
        ({"steps": 5}, 700, 5),
        ({"steps": 700}, 700, 700),  # just in time
        ({"max_episode_steps": 700}, 700, 1),  # nothing to find out
        ({"max_episode_steps": 701, "steps": 9}, 700, 9),
        ({}, None, 1),
    ],
)
def test_episodes_that_end_are_played_no_longer_than_needed(
    kwargs: dict[str, Any], longest: int | None, played: int
) -> None:
    assert check(Task("Endless-v0", kwargs), longest) == 1
    assert Endless.played == played


def test_where_time_runs_out_a_warning_says_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "SECONDS_OF_CHECK", 0.0)
    with pytest.warns(
        UserWarning, match="No episode of Endless ended within 1 steps .* if episodes never end, give it"
    ):
        assert check(Task("Endless-v0"), 700) == 1
