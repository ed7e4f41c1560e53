"""Dictionary, tuple and multi-dimensional spaces: one flat array with named parts, several choices at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from support.tiny_tasks import small_ppo

from graft import envs
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Evaluation, TrainJob
from graft.envs import GraftError, Task
from graft.envs.adapters.spaces import action_codec, observation_codec, parts_codec
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas

Box, Discrete = gym.spaces.Box, gym.spaces.Discrete
NESTED = gym.spaces.Dict(
    {
        "camera": Box(0, 255, (36, 36, 3), np.uint8),
        "body": gym.spaces.Dict({"v.x": Box(-1, 1, (2,), np.float64), "gear": Discrete(3, start=1)}),
        "pair": gym.spaces.Tuple((gym.spaces.MultiBinary(2), gym.spaces.MultiDiscrete([2, 3], start=[0, 1]))),
    }
)


class Pilot(gym.Env[Any, Any]):
    """Shows samples of the nested space; pays where both buttons and the lever are as the gear says."""

    observation_space = NESTED
    action_space = gym.spaces.MultiDiscrete([3, 2, 2])

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
        assert self.action_space.contains(action)
        reward = float(int(action[0]) == int(self.shown["body"]["gear"]) - 1)
        self.clock += 1
        return self._look(), reward, self.clock == 5, False, {}


@pytest.fixture(autouse=True)
def pilot() -> Iterator[None]:
    gym.register("Pilot-v0", entry_point=Pilot)
    yield
    del gym.registry["Pilot-v0"]


def test_parts_have_names_and_the_whole_is_flat() -> None:
    schema = envs.schemas(Task("Pilot-v0")).observation
    assert [name for name, _ in schema.parts] == ["body/gear", "body/v_x", "camera", "pair/0", "pair/1"]
    assert [part.kind for _, part in schema.parts] == ["vector", "vector", "pixels", "vector", "vector"]
    assert (schema.shape, schema.dtype) == ((3 + 2 + 3888 + 2 + 5,), "float32")
    assert schema.names[3:8] == (
        "body/v_x/Pilot.obs_0",
        "body/v_x/Pilot.obs_1",
        "camera/red",
        "camera/green",
        "camera/blue",
    )
    assert ObservationSchema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_a_batch_shows_what_the_environments_show(mode: str) -> None:
    env = envs.make(Task("Pilot-v0"), 3, 7, AutoresetMode(mode))
    obs, _ = env.reset()
    plain = [gym.make("Pilot-v0") for _ in range(3)]
    for i, one in enumerate(plain):
        shown, _ = one.reset(seed=7 + i)
        body, pair = shown["body"], shown["pair"]
        expected = [
            *(np.eye(3)[body["gear"] - 1], body["v.x"], shown["camera"].transpose(2, 0, 1).ravel(), pair[0]),
            *(np.eye(2)[pair[1][0]], np.eye(3)[pair[1][1] - 1]),
        ]
        np.testing.assert_array_equal(obs[i], np.concatenate(expected).astype(np.float32))
    assert env.single_observation_space.contains(obs[0])
    for _ in range(12):
        obs, rewards, *_ = env.step(env.action_space.sample())
        assert obs.shape == (3, 3900)
        assert rewards.shape == (3,)
    assert not env.faults.total
    env.close()


@pytest.mark.parametrize(
    ("space", "shown"), [(gym.spaces.MultiBinary(3), 3), (gym.spaces.MultiDiscrete([2, 3], start=[1, -1]), 5)]
)
def test_several_numbers_without_parts_are_one_vector(space: gym.Space[Any], shown: int) -> None:
    class Sampler(Pilot):
        observation_space = space
        action_space = gym.spaces.MultiBinary(2)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            assert self.action_space.contains(action)
            return self._look(), 0.0, False, False, {}

    gym.register("Sampler-v0", entry_point=Sampler)
    try:
        env = envs.make(Task("Sampler-v0"), 2, 0)
        env.reset()
        for _ in range(20):
            obs, *_ = env.step(env.action_space.sample())
            assert obs.shape == (2, shown)
        assert (obs.sum(1) <= shown).all()
        assert not env.faults.total
    finally:
        del gym.registry["Sampler-v0"]


def test_bytes_alone_stay_bytes() -> None:
    screens = gym.spaces.Dict({"left": Box(0, 255, (4, 4, 1), np.uint8), "right": Box(0, 255, (4, 4, 1), np.uint8)})
    assert observation_codec("t", screens).schema.dtype == "uint8"


def test_a_part_that_cannot_be_shown_is_named() -> None:
    space = gym.spaces.Dict({"text": gym.spaces.Text(5)})
    with pytest.raises(GraftError, match="Part 'text' of what 't' shows cannot be shown"):
        observation_codec("t", space)


@pytest.mark.parametrize("keys", [("keys",), ("type", "forward"), ("training", "a/b"), ("",)])
def test_a_part_may_be_called_anything(keys: tuple[str, ...]) -> None:
    space = gym.spaces.Dict({key: Box(-1, 1, (2,), np.float32) for key in keys})
    schemas = Schemas(parts_codec("x", space, {}).schema, ActionSchema("discrete", ("stay", "go")))
    network = PolicyNetwork(schemas, NetworkConfig(None, {"normalise": True}), 0)
    assert network(torch.zeros(3, 2 * len(keys))).action.shape == (3, 2)
    assert {f"encoder.{stem.name}" for stem in network.encoder.stems} <= network.state_dict().keys()


def test_two_parts_of_one_name_are_refused() -> None:
    space = gym.spaces.Dict({key: Discrete(2) for key in ("a.b", "a_b")})
    with pytest.raises(GraftError, match="'x' shows two parts that are called 'a_b'"):
        parts_codec("x", space, {})


def test_several_choices() -> None:
    codec = action_codec("Game-v0", gym.spaces.MultiDiscrete([[2, 3], [2, 2]], start=[[1, 0], [0, 0]]))
    assert codec.schema.sizes == (2, 3, 2, 2)
    assert codec.schema.names[:3] == ("Game.action_0=1", "Game.action_0=2", "Game.action_1=0")
    assert codec.decode(np.array([[1, 2, 0, 1]])).tolist() == [[[2, 2], [0, 1]]]
    space = codec.schema.space()
    assert isinstance(space, gym.spaces.MultiDiscrete)
    assert space.nvec.tolist() == [2, 3, 2, 2]


def test_flags_are_choices_of_two() -> None:
    space = gym.spaces.MultiBinary(3)
    codec = action_codec("Game-v0", space, ("a=0", "a=1", "b=0", "b=1", "c=0", "c=1"))
    assert codec.schema.names[2:4] == ("b=0", "b=1")
    decoded = codec.decode(np.array([[1, 0, 1]]))[0]
    assert decoded.tolist() == [1, 0, 1]
    assert space.contains(decoded)


@pytest.mark.slow
def test_ppo_learns_from_parts_to_make_several_choices() -> None:
    task, returns = Task("Pilot-v0"), []
    options = {"features": 32, "encoders": {"camera": {"options": {"features": 8}}}}
    network = PolicyNetwork(envs.schemas(task), NetworkConfig(options=options), 0)

    def record(_: int, values: Any) -> None:
        returns.extend(value for tag, value in values.items() if tag == "eval/return_mean")

    ppo = small_ppo(num_envs=8, num_steps=20, minibatch=80, epochs=4, learning_rate=3e-3)
    train(TrainJob(network, task, ppo, 2400, 0, record, Evaluation(every=2400, episodes=24, num_envs=8)))
    assert returns[0] < 2.5  # 5 steps, a third of them by chance
    assert returns[-1] > 3.0
