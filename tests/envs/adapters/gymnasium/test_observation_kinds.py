"""Environments with pictures, boards and categories of their own: what networks see is what a plain loop gives."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs import GraftError, Task

Box = gym.spaces.Box


class Sampler(gym.Env[Any, Any]):
    """Shows samples of a space for six steps, and pays the sum of what it shows."""

    def __init__(self, space: Any = None, names: Any = None, attributes: Any = None) -> None:
        self.observation_space = copy.deepcopy(space)
        self.action_space = gym.spaces.Discrete(2)
        if names is not None:
            self.observation_names = names
        if attributes is not None:
            self.observation_attributes = attributes

    def _look(self) -> Any:
        self.shown = self.observation_space.sample()
        return self.shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.clock = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        return (
            self._look(),
            float(np.sum(np.asarray(self.shown, np.float64))) + float(action),
            self.clock == 6,
            False,
            {},
        )


def wrapped_gather(**kwargs: Any) -> gym.Env[Any, Any]:
    """One of Graft's games in somebody's wrapper."""
    return gym.wrappers.TransformReward(gym.make("Graft/Gather-v0", **kwargs), lambda reward: 2.0 * float(reward))


def stacked_gather(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.wrappers.FrameStackObservation(gym.make("Graft/Gather-v0", **kwargs), 2)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Sampler-v0", entry_point=Sampler)
    gym.register("MyGather-v0", entry_point=wrapped_gather)
    gym.register("MyStack-v0", entry_point=stacked_gather)
    yield
    for name in ("Sampler-v0", "MyGather-v0", "MyStack-v0"):
        del gym.registry[name]


def made(space: Any, names: Any = None, attributes: Any = None, count: int = 1, **schema: Any) -> envs.TaskVectorEnv:
    kwargs = {"space": space, "names": names, "attributes": attributes, **({"schema": schema} if schema else {})}
    return envs.make(Task("Sampler-v0", kwargs), count, 3)


SPACES = {
    "small picture": (Box(0, 255, (12, 16, 3), np.uint8), {}, lambda raw: raw.transpose(2, 0, 1)),
    "eight channels": (Box(0, 255, (8, 12, 12), np.uint8), {}, lambda raw: raw),
    "flat planes": (Box(0, 1, (5, 10, 10), np.uint8), {}, lambda raw: raw),
    "asked": (Box(0, 1, (5, 10, 20), np.uint8), {"channels": "last"}, lambda raw: raw.transpose(2, 0, 1)),
    "stack": (Box(0, 255, (2, 9, 9, 3), np.uint8), {}, lambda raw: raw.transpose(0, 3, 1, 2).reshape(6, 9, 9)),
    "reals": (Box(-1, 1, (7, 7, 3), np.float64), {}, lambda raw: raw.transpose(2, 0, 1).astype(np.float32)),
    "codes": (Box(0, 3, (6, 7), np.uint8), {}, lambda raw: np.moveaxis(np.eye(4)[raw], 2, 0)),
    "category": (gym.spaces.Discrete(5, start=-2), {}, lambda raw: np.eye(5)[raw + 2]),
    "categories": (
        gym.spaces.MultiDiscrete([3, 2], start=[1, 0]),
        {},
        lambda raw: np.concatenate([np.eye(3)[raw[0] - 1], np.eye(2)[raw[1]]]),
    ),
}


@pytest.mark.parametrize("kind", SPACES)
def test_a_network_sees_what_a_plain_loop_gives(kind: str) -> None:
    space, schema, decoded = SPACES[kind]
    env = made(space, count=2, **schema)
    network = PolicyNetwork(env.schemas, NetworkConfig(), 0)
    obs, _ = env.reset()
    plain = gym.make("Sampler-v0", space=space, disable_env_checker=True)
    shown, _ = plain.reset(seed=3)
    for step in range(14):
        np.testing.assert_allclose(obs[0], decoded(shown), atol=1e-6)
        assert env.single_observation_space.contains(obs[0])
        assert network(torch.as_tensor(obs)).action.isfinite().all()
        obs, rewards, terminated, truncated, _ = env.step(np.array([step % 2, 1]))
        shown, reward, ended, _, _ = plain.step(step % 2)
        assert (rewards[0], terminated[0], truncated[0]) == (pytest.approx(reward), ended, False)
        if ended:
            shown, _ = plain.reset()
    assert not env.faults.total
    env.close()


def test_names_and_attributes_of_an_author_work_for_every_kind() -> None:
    words = {"wall": ["solid"], "me": "self"}
    board = made(Box(0, 1, (9, 9, 2), np.uint8), ["wall", "me"], words).observation_schema
    assert (board.names, board.attributes) == (("wall", "me"), (("solid",), ("self",)))
    gears = made(gym.spaces.MultiDiscrete([2, 2]), ["gear", "door"], {"gear": ["state"]}).observation_schema
    assert (gears.names[0], gears.attributes) == ("gear=0", (("state",), ("state",), (), ()))
    parts = gym.spaces.Dict({"view": Box(0, 255, (2, 9, 9), np.uint8), "body": gym.spaces.Discrete(2)})
    seen = made(parts, {"view": ["wall", "me"], "body": ["gear"]}, words).observation_schema
    assert seen.names == ("body/gear=0", "body/gear=1", "view/wall", "view/me")
    assert dict(seen.parts)["view"].attributes == (("solid",), ("self",))


def test_names_that_fit_nothing_are_not_passed_over_in_silence() -> None:
    with pytest.warns(UserWarning, match="observation_names of Sampler-v0 are not used: it gives 3, and its .* have 2"):
        made(Box(-1, 1, (2,), np.float32), ["a", "b", "c"])


def test_config_names_entries_of_categories() -> None:
    space = gym.spaces.MultiDiscrete([2, 2])
    by_one = made(space, observation={"Sampler.obs_1": "door"}).observation_schema.names
    assert by_one == ("Sampler.obs_0=0", "Sampler.obs_0=1", "door=0", "door=1")
    assert made(space, observation=["gear", "door"]).observation_schema.names == (
        "gear=0",
        "gear=1",
        "door=0",
        "door=1",
    )
    with pytest.raises(GraftError, match=r"gives 2 names where there are 20000: Sampler.obs=0.* and 19976 more"):
        made(gym.spaces.Discrete(20_000), observation=["a", "b"])


def test_gathers_planes_in_a_wrapper_are_its_own() -> None:
    mine, theirs = (envs.make(Task(name), 1, 5) for name in ("MyGather-v0", "Graft/Gather-v0"))
    assert mine.schemas == theirs.schemas
    for env in (mine, theirs):
        env.reset()
    dice = np.random.default_rng(0)
    for _ in range(40):
        actions = dice.integers(0, len(mine.action_schema.names), 1)
        (obs, rewards, *flags), (same, doubled, *others) = mine.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(obs, same)
        assert rewards[0] == 2 * doubled[0]
        assert flags[:2] == others[:2]


def test_gathers_planes_in_a_stack_keep_names_and_attributes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stacked = envs.schemas(Task("MyStack-v0")).observation
    own = envs.schemas(Task("Graft/Gather-v0")).observation
    assert stacked.names == tuple(f"frame_{i}:{name}" for i in range(2) for name in own.names)
    assert stacked.attributes == own.attributes * 2
