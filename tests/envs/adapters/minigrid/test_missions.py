"""Missions as planes: their words, and which tasks show them, against what EnvPool and MiniGrid's package generate."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.env_rollouts import action_streams, assert_equal, episodes, transitions

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.envpool.adapter import (
    _library as load_library,  # with Qt before it, for tests in the same process
)
from graft.envs.adapters.minigrid.missions import GRIDS, WORDS, shows_mission, with_words, word_row, word_rows

INSTALL = "pip install 'graft-rl[games]'"
FETCH = "MiniGrid-Fetch-5x5-N2-v0"
LOCAL = "BabyAI-GoToLocal-v0"
DOOR_KEY = "MiniGrid-DoorKey-5x5-v0"
SLOW = ("WFC", "SynthS5R2")
"""Tasks that take seconds to make, or, with some seeds of SynthS5R2, for ever."""

needs_envpool = pytest.mark.skipif(find_spec("envpool") is None, reason=f"EnvPool is missing: {INSTALL}")
needs_minigrid = pytest.mark.skipif(find_spec("minigrid") is None, reason=f"MiniGrid is missing: {INSTALL}")


def make(task_id: str, num_envs: int = 1, mode: str = "SameStep", **kwargs: Any) -> envs.TaskVectorEnv:
    return envs.make(Task(task_id, kwargs), num_envs, 3, AutoresetMode(mode))


def spoken(schema: envs.ObservationSchema, obs: Any) -> set[str]:
    """Words whose plane is set, which is all of it or nothing."""
    shown = {n: plane for n, plane in zip(schema.names, obs, strict=True) if n.startswith("mission:")}
    assert all(plane.min() == plane.max() for plane in shown.values())
    return {name.removeprefix("mission:") for name, plane in shown.items() if plane.all()}


def test_words_by_hand() -> None:
    row = word_row(b"Open the RED door, then flee")
    assert {WORDS[i] for i in np.flatnonzero(np.frombuffer(row, np.uint8))} == {"open", "the", "red", "door", "then"}
    sentences = np.zeros((2, 12), np.uint8)
    sentences[1] = np.frombuffer(b"go to a ball", np.uint8)
    rows = word_rows(sentences)
    assert rows.sum(axis=1).tolist() == [0, 4]
    assert word_rows(sentences[:0]).shape == (0, len(WORDS))


def test_planes_of_words_follow_the_views() -> None:
    plain = envs.ObservationSchema("planes", ("wall",), (("solid",),), (1, 7, 7), "uint8", (0.0,), (1.0,))
    schema = with_words(plain)
    assert (schema.shape, schema.names[:2]) == ((1 + len(WORDS), 7, 7), ("wall", "mission:a"))
    assert set(schema.attributes[1:]) == {("mission",)}


def _sampled(library: Any, name: str) -> set[str]:
    pool = library.make(name, env_type="gymnasium", env_seed=list(range(32)), num_envs=32, num_threads=1)
    return {bytes(row).rstrip(b"\0").decode() for _ in range(2) for row in pool.reset()[0]["mission"]}


@needs_envpool
def test_the_rule_and_the_words_are_what_envpool_generates() -> None:
    library = load_library()
    ids = [n for n in library.list_all_envs() if n.startswith(GRIDS) and not any(part in n for part in SLOW)]
    assert len(ids) > 150
    heard = set()
    for name in ids:
        missions = _sampled(library, name)
        heard |= {word for mission in missions for word in re.findall("[a-z]+", mission.lower())}
        assert shows_mission("envpool/" + name) == (len(missions) > 1 or name.startswith("BabyAI-")), name
    assert set(WORDS) == heard | {"maze"}  # of the tasks left out


@needs_minigrid
def test_the_rule_is_minigrids_own_and_covers_its_words() -> None:
    importlib.import_module("minigrid")
    for name in [n for n in gym.registry if n.startswith("MiniGrid-") and "WFC" not in n]:
        entry: Any = gym.registry[name]
        module, _, creator = str(entry.entry_point).partition(":")
        env = getattr(importlib.import_module(module), creator)(**entry.kwargs)
        space = env.observation_space["mission"]
        assert shows_mission(name, space) == shows_mission(name), name
        sentences = [space.sample() for _ in range(5)]
        assert all(set(re.findall("[a-z]+", sentence)) <= set(WORDS) for sentence in sentences), name


@needs_envpool
def test_envpool_shows_what_is_asked_for() -> None:
    library = load_library()
    env = make("envpool/" + FETCH, 8)
    obs, _ = env.reset()
    pool = library.make(FETCH, env_type="gymnasium", env_seed=list(range(3, 11)), num_envs=8)
    for row, mission in zip(obs, pool.reset()[0]["mission"], strict=True):
        assert spoken(env.observation_schema, row) == set(bytes(mission).rstrip(b"\0").decode().split())


@needs_minigrid
def test_minigrids_package_shows_what_is_asked_for() -> None:
    env = make("minigrid:" + LOCAL)
    obs, _ = env.reset()
    single = gym.make(LOCAL, disable_env_checker=True)
    assert spoken(env.observation_schema, obs[0]) == set(single.reset(seed=3)[0]["mission"].split())


@needs_envpool
@needs_minigrid
@pytest.mark.parametrize("name", [FETCH, LOCAL, DOOR_KEY])
def test_providers_agree_and_families_share_their_names(name: str) -> None:
    ours, theirs = envs.schemas(Task("envpool/" + name)), envs.schemas(Task("minigrid:" + name))
    assert ours == theirs
    views = envs.schemas(Task("envpool/" + name, {"mission": False})).observation
    assert ours.observation == (views if name == DOOR_KEY else with_words(views))


@needs_envpool
@needs_minigrid
@pytest.mark.parametrize("provider", ["envpool/", "minigrid:"])
def test_the_keyword_decides(provider: str) -> None:
    for name in (FETCH, DOOR_KEY):
        short, long = make(provider + name, mission=False), make(provider + name, mission=True)
        views, both = short.reset()[0], long.reset()[0]
        assert (views.shape[1], both.shape[1]) == (20, 20 + len(WORDS))
        np.testing.assert_array_equal(both[:, :20], views)
    assert "key" in spoken(long.observation_schema, both[0])
    with pytest.raises(GraftError, match=r"mission='yes' of .* is not allowed; give true or false"):
        make(provider + FETCH, mission="yes")
    with pytest.raises(GraftError, match="Did you mean 'mission'"):
        make(provider + FETCH, mision=True)


@pytest.mark.parametrize("name", ["envpool/" + FETCH, "minigrid:" + FETCH, "envpool/BabyAI-GoToRedBlueBall-v0"])
def test_autoreset_conventions_give_the_same_transitions(name: str) -> None:
    if find_spec("envpool" if name.startswith("envpool") else "minigrid") is None:
        pytest.skip(INSTALL)
    same, following = make(name, 3), make(name, 3, "NextStep")
    streams = action_streams(same, 300)
    played = transitions(same, streams)
    assert episodes(played) >= 6
    assert_equal(played, transitions(following, streams))
