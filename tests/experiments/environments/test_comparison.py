"""Play beside a plain loop: what is equal, what only looks so, and where random numbers come from."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from support.masked_envs import KINDS, register

from graft.envs.adapters.spaces import observation_codec
from graft.envs.core.schema import masked
from graft.envs.core.task import Task
from graft.experiments.environments.comparison import compare
from graft.experiments.environments.played import Played, first_difference
from graft.experiments.environments.shown import Masked, shows

Box = gym.spaces.Box
TICKS = itertools.count()


class Dice(gym.Env[Any, Any]):
    """Shows and pays what it throws: from its own generator, Python's global one, a counter of the process (which is
    not repeatable), or that from the second episode on (later).
    """

    observation_space = gym.spaces.Dict({"eyes": gym.spaces.Discrete(6, start=1), "sum": Box(0.0, 10.0, (1,))})
    action_space = gym.spaces.Discrete(3, start=-1)

    def __init__(self, source: str = "own") -> None:
        self.source = source

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seeded = seed is not None
        self.sum = 0.0
        return {"eyes": 1, "sum": np.zeros(1, np.float32)}, {}

    def step(self, action: Any) -> Any:
        assert action in (-1, 0, 1)
        draws = {"own": lambda: int(self.np_random.integers(6)), "global": lambda: random.randrange(6)}
        own = self.source == "later" and self.seeded
        eyes = 1 + draws.get("own" if own else self.source, lambda: next(TICKS) % 6)()
        self.sum += eyes
        shown = {"eyes": eyes, "sum": np.array([self.sum], np.float32)}
        return shown, eyes + float(action), self.sum > 12, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Dice-v0", entry_point=Dice, max_episode_steps=4)
    yield
    del gym.registry["Dice-v0"]


def test_equal_play_is_told_by_the_source_of_random_numbers() -> None:
    found = compare(Task("Dice-v0"), 20)
    assert (found["result"], found["steps"]) == ("equal", 40)
    assert found["episodes"] >= 10, "limited to 4 steps"
    assert found["clipped"] > 0, "sums above 10 are shown as 10"
    assert compare(Task("Dice-v0", {"source": "global"}), 20)["result"] == (
        "equal, from one seed of all random numbers"
    )
    assert compare(Task("Dice-v0", {"source": "process"}), 20)["result"] == "not repeatable"
    later = compare(Task("Dice-v0", {"source": "later"}), 20)
    assert later["result"] == "equal in first episodes, later ones are not repeatable"
    assert later["episodes"] == 2


def test_a_difference_is_named() -> None:
    space = Box(-1.0, 1.0, (2,), np.float32)
    schema = observation_codec("Any-v0", space).schema
    row = np.array([0.5, -0.5], np.float32)
    same = Played(row, 1.0, False, False, row)
    assert first_difference(schema, space, False, [[same] * 2], [[same] * 2]) is None
    for change, words in [
        ({"reward": 2.0}, "reward of environment 0 in step 1"),
        ({"terminated": True}, "terminated of environment 0 in step 1"),
        ({"after": row + 0.01}, "observation of environment 0 in step 1"),
    ]:
        assert str(first_difference(schema, space, False, [[same] * 2], [[same, same._replace(**change)]])) == words


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (9, 8, 3), np.uint8),
        Box(0, 255, (3, 7, 5), np.uint8),
        Box(0, 1, (2, 5, 6), np.uint8),
        Box(0, 3, (4, 5), np.int32),
        Box(-2.0, 3.0, (9, 8, 3), np.float32),
        gym.spaces.MultiDiscrete([2, 3], start=[1, -1]),
        gym.spaces.MultiBinary(12),
        gym.spaces.Tuple([gym.spaces.Discrete(3), Box(0, 255, (9, 8, 3), np.uint8)]),
    ],
)
def test_what_is_shown_is_recognised_and_nothing_else(space: gym.Space[Any]) -> None:
    space.seed(1)
    codec = observation_codec("Any-v0", space)
    first, second = space.sample(), space.sample()
    batch = tuple(np.asarray(part)[None] for part in first) if isinstance(first, tuple) else np.asarray(first)[None]
    row = codec.encode(batch)[0]
    assert shows(codec.schema, space, row, first)
    assert not shows(codec.schema, space, row, second)


@pytest.mark.parametrize("where", KINDS)
def test_masks_are_played_and_compared(where: str) -> None:
    register()
    for sizes in ([], [3, 2]):
        found = compare(Task("Masked-v0", {"where": where, "sizes": sizes}), 20)
        assert (found["result"], found["faults"], found["episodes"]) == ("equal", "", 6)


def test_turns_are_compared_with_the_games_own_loop() -> None:
    found = compare(Task("pettingzoo:support.masked_envs", {"stones": 20}), 30)
    assert (found["result"], found["faults"]) == ("equal", "")
    assert found["steps"] >= 60, "of two rows"
    assert found["episodes"] >= 2, "other seeds, as 20 stones take 20 turns at most"


def test_another_mask_is_a_difference() -> None:
    schema = masked(observation_codec("Any-v0", Box(-1.0, 1.0, (2,))).schema, ("forbidden/a", "forbidden/b"))
    raw = np.array([0.5, -0.5], np.float32)
    row = np.array([0.5, -0.5, 0.0, 1.0], np.float32)
    space = Box(-1.0, 1.0, (2,))
    assert shows(schema, space, row, Masked(raw, np.array([1, 0])))
    assert not shows(schema, space, row, Masked(raw, np.array([1, 1])))
    assert shows(schema, space, row, Masked(raw, None)), "nothing is to be chosen"
    assert not shows(schema, space, row, Masked(raw + 0.25, np.array([1, 0])))
