"""Agents of Stable-Baselines3 play the same after they were imported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from graft.agents.importing.agent import import_agent
from graft.agents.importing.foreign import WHOLE, Statistics
from graft.agents.importing.parity import compare
from graft.agents.importing.source import Request
from graft.envs.adapters.spaces import action_codec, observation_codec
from graft.envs.core.schema import Schemas
from graft.errors import GraftError


class Still(gym.Env[Any, Any]):
    """Shows random observations of its space."""

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, True, {}


VECTOR = spaces.Box(-3, 3, (5,), np.float32)
SCREEN = spaces.Box(0, 255, (3, 36, 40), np.uint8)
DICT = spaces.Dict({"speed": spaces.Box(-1, 1, (2,), np.float32), "camera": SCREEN, "arm": VECTOR})
WIDE = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32))
FOUR, MULTI = spaces.Discrete(4), spaces.MultiDiscrete([2, 3])

CASES = {
    "ppo": (PPO, "MlpPolicy", VECTOR, FOUR, {}),
    "ppo multi": (PPO, "MlpPolicy", VECTOR, MULTI, {"net_arch": {"pi": [16, 8], "vf": [8, 16]}}),
    "ppo box": (PPO, "MlpPolicy", VECTOR, WIDE, {"activation_fn": nn.ELU}),
    "ppo other depths": (PPO, "MlpPolicy", VECTOR, WIDE, {"net_arch": {"pi": [16], "vf": [8, 8]}}),
    "ppo other depths, relu": (
        PPO,
        "MlpPolicy",
        VECTOR,
        WIDE,
        {"net_arch": {"pi": [16], "vf": [8, 8]}, "activation_fn": nn.ReLU},
    ),
    "linear": (A2C, "MlpPolicy", VECTOR, FOUR, {"net_arch": {"pi": [], "vf": []}}),
    "dqn": (DQN, "MlpPolicy", VECTOR, FOUR, {}),
    "sac": (SAC, "MlpPolicy", VECTOR, WIDE, {"net_arch": [16, 16]}),
    "td3": (TD3, "MlpPolicy", VECTOR, WIDE, {"net_arch": [16, 16]}),
    "ppo pixels": (PPO, "CnnPolicy", SCREEN, FOUR, {}),
    "ppo pixels, towers": (
        PPO,
        "CnnPolicy",
        SCREEN,
        WIDE,
        {"net_arch": [8, 8], "features_extractor_kwargs": {"features_dim": 16}},
    ),
    "ppo pixels, features apart": (PPO, "CnnPolicy", SCREEN, FOUR, {"share_features_extractor": False}),
    "dqn pixels": (DQN, "CnnPolicy", SCREEN, FOUR, {}),
    "ppo dict": (PPO, "MultiInputPolicy", DICT, WIDE, {}),
    "dqn dict": (DQN, "MultiInputPolicy", DICT, FOUR, {"net_arch": [16, 8]}),
}

FAST = ("ppo", "ppo box", "ppo other depths", "dqn", "sac", "td3", "linear")


def build(name: str) -> Any:
    """A model of the library, whose weights are all random."""
    kind, policy, observation, action, kwargs = CASES[name]
    rest = (
        {"buffer_size": 10}
        if kind in (DQN, SAC, TD3)
        else {"n_steps": 8}
        if kind is A2C
        else {"n_steps": 8, "batch_size": 8}
    )
    model: Any = kind(policy, Still(observation, action), policy_kwargs=dict(kwargs), seed=0, device="cpu", **rest)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.policy.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.01 if parameter.numel() > 10_000 else 0.2))
    return model


def schemas_of(name: str) -> Schemas:
    _, _, observation, action, _ = CASES[name]
    return Schemas(observation_codec("still", observation).schema, action_codec("still", action).schema)


def observed(name: str, count: int) -> tuple[Any, Any]:
    """Random observations as the library takes them, and the same as Graft does."""
    space = CASES[name][2]
    space.seed(3)
    seen = [space.sample() for _ in range(count)]
    keys = space.spaces if isinstance(space, spaces.Dict) else None
    raw = {key: np.stack([one[key] for one in seen]) for key in keys} if keys else np.stack(seen)
    return raw, observation_codec("still", space).encode(raw)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_actions_are_those_that_the_library_predicts(name, tmp_path):
    model = build(name)
    raw, obs = observed(name, 1000 if "Mlp" in CASES[name][1] else 64)
    if name == "dqn pixels":  # pictures of noise look alike: without this, one action has the highest value in all
        with torch.no_grad():
            model.q_net.q_net[-1].bias -= model.q_net(torch.as_tensor(raw)).mean(0)
    model.save(tmp_path / "model.zip")
    imported = import_agent(Request(tmp_path / "model.zip", schemas_of(name)))
    theirs, _ = model.predict(raw, deterministic=True)
    network = imported.assembly.network
    ours = action_codec("still", CASES[name][3]).decode(network.act(obs, None, deterministic=True).numpy())
    if isinstance(CASES[name][3], spaces.Box):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert ours.std(0).min() > 0.01
    else:
        assert (ours == theirs).all()
        assert len(np.unique(theirs.reshape(len(theirs), -1), axis=0)) > 1
    assert compare(imported.policy, network, obs).holds
    placed = {row.tensor for row in imported.assembly.rows} | imported.assembly.unused.keys()
    assert placed >= set(model.policy.state_dict())


@pytest.mark.parametrize("name", ["ppo", "ppo box", "ppo other depths, relu"])
def test_values_are_the_library_s_where_both_towers_fit(name, tmp_path):
    model = build(name)
    model.save(tmp_path / "model.zip")
    network = import_agent(Request(tmp_path / "model.zip", schemas_of(name))).assembly.network
    raw, obs = observed(name, 100)
    with torch.no_grad():
        theirs = model.policy.predict_values(torch.as_tensor(raw)).squeeze(-1)
        torch.testing.assert_close(network(torch.as_tensor(obs)).value, theirs, rtol=1e-5, atol=1e-5)


def test_a_value_of_other_depth_is_fresh_and_said_to_be(tmp_path):
    build("ppo other depths").save(tmp_path / "model.zip")
    assembly = import_agent(Request(tmp_path / "model.zip", schemas_of("ppo other depths"))).assembly
    assert "mlp_extractor.value_net.2.weight" in assembly.unused
    assert "value" in assembly.made


def test_statistics_are_those_of_vec_normalize(tmp_path):
    model = build("ppo box")
    model.save(tmp_path / "model.zip")
    mean, var = np.array([0.5, -1, 0, 2, 0.1]), np.array([4.0, 0.01, 1, 0.5, 9])
    vec = VecNormalize(model.get_env(), clip_obs=2.0)
    vec.obs_rms.mean, vec.obs_rms.var = mean, var
    known = Statistics(torch.tensor(mean), torch.tensor(var + 1e-8).sqrt(), 2.0, ("mean", "var"))
    request = Request(tmp_path / "model.zip", schemas_of("ppo box"))
    imported = import_agent(request, statistics={WHOLE: known})
    raw, obs = observed("ppo box", 500)
    theirs, _ = model.predict(vec.normalize_obs(raw), deterministic=True)
    ours = imported.assembly.network.act(obs, None, deterministic=True).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert compare(imported.policy, imported.assembly.network, obs).holds


def test_what_does_not_fit_is_a_sentence(tmp_path):
    build("ppo").save(tmp_path / "model.zip")
    request = Request(tmp_path / "model.zip", schemas_of("ppo box"))
    with pytest.raises(GraftError, match="outputs"):
        import_agent(request)
    seen, action = schemas_of("dqn pixels").observation, schemas_of("ppo").action
    with pytest.raises(GraftError, match="numbers"):
        import_agent(Request(tmp_path / "model.zip", Schemas(seen, action)))


def test_bounds_that_the_file_knows_must_be_the_task_s(tmp_path):
    build("sac").save(tmp_path / "model.zip")
    own = schemas_of("sac")
    narrow = replace(own.action, high=(1.0, 5.0))
    with pytest.raises(GraftError, match="bounds"):
        import_agent(Request(tmp_path / "model.zip", Schemas(own.observation, narrow)))
