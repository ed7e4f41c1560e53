"""Worlds of one's own, under one's own ids and in MiniGrid's wrappers: the named planes of MiniGrid's tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.minigrid.adapter import encode

minigrid = pytest.importorskip("minigrid", reason="pip install 'graft-rl[games]'")
from minigrid import wrappers  # noqa: E402
from minigrid.core.grid import Grid  # noqa: E402
from minigrid.core.mission import MissionSpace  # noqa: E402
from minigrid.core.world_object import Ball, Goal  # noqa: E402
from minigrid.minigrid_env import MiniGridEnv  # noqa: E402


class Meadow(MiniGridEnv):  # type: ignore[misc]
    """A ball and a goal at random places; says which is meant, if there is a choice."""

    def __init__(self, choice: bool = False, **kwargs: Any) -> None:
        things = [["ball", "goal"]] if choice else [["goal"]]
        mission = MissionSpace(mission_func=lambda thing: f"go to the {thing}", ordered_placeholders=things)
        super().__init__(mission_space=mission, grid_size=8, max_steps=12, **kwargs)
        self.things = things[0]

    def _gen_grid(self, width: int, height: int) -> None:
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.place_obj(Goal())
        self.place_obj(Ball("blue"))
        self.place_agent()
        self.mission = f"go to the {self.things[int(self.np_random.integers(len(self.things)))]}"


WRAPPERS = {"Plain": [], "Img": ["ImgObsWrapper"], "Rgb": ["RGBImgPartialObsWrapper"], "Full": ["FullyObsWrapper"]}


def wrapped(names: list[str], **kwargs: Any) -> Any:
    env: Any = Meadow(**kwargs)
    for name in names:
        env = getattr(wrappers, name)(env)
    return env


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Meadow-v0", entry_point=Meadow)
    for kind, names in WRAPPERS.items():
        gym.register(f"Meadow{kind}-v0", entry_point=lambda _names=names, **kwargs: wrapped(_names, **kwargs))
    yield
    for kind in ("", *WRAPPERS):
        del gym.registry[f"Meadow{kind}-v0"]


@pytest.mark.parametrize("name", ["Meadow-v0", "MeadowPlain-v0", "MeadowImg-v0", "MeadowFull-v0"])
def test_a_world_of_ones_own_has_minigrids_names_and_values(name: str) -> None:
    env, plain = envs.make(Task(name), 1, 4), gym.make(name)
    assert env.schemas.observation.names == envs.schemas(Task("minigrid:MiniGrid-Empty-5x5-v0")).observation.names
    assert env.action_schema.names == envs.schemas(Task("minigrid:MiniGrid-Empty-5x5-v0")).action.names
    obs, _ = env.reset()
    raw, _ = plain.reset(seed=4)
    for action in np.random.default_rng(0).integers(0, 7, 30):
        view = raw["image"] if isinstance(raw, dict) else raw
        np.testing.assert_array_equal(obs, encode(view[None]))
        obs, rewards, terminated, truncated, _ = env.step(np.array([action]))
        raw, reward, ended, late, _ = plain.step(action)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, ended, late and not ended)
        if ended or late:
            raw, _ = plain.reset()
    assert not env.faults.total


def test_its_mission_is_shown_where_it_varies_or_as_is_said() -> None:
    def words(**kwargs: Any) -> int:
        names = envs.schemas(Task("Meadow-v0", kwargs)).observation.names
        return sum(name.startswith("mission:") for name in names)

    assert [words(), words(mission=False), words(choice=True, mission=False)] == [0, 0, 0]
    assert words(mission=True) == words(choice=True) > 20
    with pytest.raises(GraftError, match="mission=true of MeadowImg-v0 is not possible"):
        envs.make(Task("MeadowImg-v0", {"mission": True}), 1, 0)


def test_what_else_a_world_shows_is_not_left_out_in_silence() -> None:
    def tired(**kwargs: Any) -> Any:
        return gym.wrappers.TransformObservation(
            Meadow(**kwargs),
            lambda obs: {**obs, "energy": 3},
            gym.spaces.Dict({**Meadow().observation_space, "energy": gym.spaces.Discrete(5)}),
        )

    gym.register("Tired-v0", entry_point=tired)
    try:
        with pytest.warns(UserWarning, match="what Tired-v0 has beside them is not: energy"):
            assert envs.schemas(Task("Tired-v0")).observation.shape == (20, 7, 7)
    finally:
        del gym.registry["Tired-v0"]


def test_pictures_of_a_world_are_no_codes() -> None:
    env, plain = envs.make(Task("MeadowRgb-v0"), 1, 4), gym.make("MeadowRgb-v0")
    assert env.observation_schema.names == ("red", "green", "blue")
    np.testing.assert_array_equal(env.reset()[0][0], plain.reset(seed=4)[0]["image"].transpose(2, 0, 1))


def test_the_keyword_is_nothing_to_other_environments() -> None:
    with pytest.raises(GraftError, match="Unknown keyword of CartPole-v1 'mission'"):
        envs.make(Task("CartPole-v1", {"mission": True}), 1, 0)
