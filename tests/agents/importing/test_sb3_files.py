"""Agents of Stable-Baselines3 play the same after they were imported."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
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

FAST = ("ppo box", "ppo other depths", "dqn", "sac", "linear")


@cache
def build(name: str) -> Any:
    """A model of the library, whose weights are all random."""
    kind, policy, observation, action, kwargs = CASES[name]
    rest = {A2C: {"n_steps": 8}, PPO: {"n_steps": 8, "batch_size": 8}}.get(kind, {"buffer_size": 10})
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
    placed, unused = {row.tensor for row in imported.assembly.rows}, imported.assembly.unused.keys()
    assert placed | unused >= set(model.policy.state_dict())
    assert placed.isdisjoint(unused)


@pytest.mark.parametrize("name", ["ppo", "ppo other depths, relu"])
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
    with pytest.raises(GraftError, match="Discrete, the task takes Box"):
        import_agent(request)
    seen, action = schemas_of("dqn pixels").observation, schemas_of("ppo").action
    with pytest.raises(GraftError, match="order of the numbers differ"):
        import_agent(Request(tmp_path / "model.zip", Schemas(seen, action)))


def test_bounds_that_the_file_knows_must_be_the_task_s(tmp_path):
    build("sac").save(tmp_path / "model.zip")
    own = schemas_of("sac")
    for high in ((1.0, 5.0), (np.inf, np.inf)):
        narrow = replace(own.action, high=high)
        with pytest.raises(GraftError, match="bounds"):
            import_agent(Request(tmp_path / "model.zip", Schemas(own.observation, narrow)))


class Triples(FlattenExtractor):
    """An extractor without weights that is not the library's."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations) * 3


class Own(ActorCriticPolicy):
    """A policy that is not the library's."""


class Tanh(nn.ReLU):
    """An activation that is called as another."""


@pytest.mark.parametrize(
    ("policy", "kwargs", "match"),
    [
        ("MlpPolicy", {"features_extractor_class": Triples}, "Triples"),
        (Own, {}, "only the policies of Stable-Baselines3"),
        ("MlpPolicy", {"activation_fn": Tanh}, "is not known; give --activation"),
    ],
)
def test_classes_of_others_are_refused(policy, kwargs, match, tmp_path):
    env = Still(VECTOR, FOUR)
    model = PPO(policy, env, policy_kwargs=kwargs, n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "model.zip")
    with pytest.raises(GraftError, match=match):
        import_agent(Request(tmp_path / "model.zip", schemas_of("ppo")))


@pytest.mark.filterwarnings("ignore:It seems that", "ignore:Treating image", "ignore:The minimal resolution")
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (6, 6), np.uint8),  # not divided by 255 there
        pytest.param(spaces.Box(0, 255, (10, 6, 6), np.uint8), marks=pytest.mark.slow),  # channels last there
        spaces.Box(-1, 1, (6, 5, 3), np.float32),
        pytest.param(spaces.Box(0, 2, (3, 6, 6), np.float32), marks=pytest.mark.slow),  # scaled here
        spaces.Box(0, 1, (5, 5, 5), np.uint8),
    ],
    ids=str,
)
def test_observations_that_are_scaled_or_arranged_otherwise_are_refused(space, tmp_path):
    model = PPO("MlpPolicy", Still(space, FOUR), n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "model.zip")
    seen = observation_codec("still", space, channels="first" if space.shape == (5, 5, 5) else None).schema
    with pytest.raises(GraftError, match="scale or order of the numbers differ"):
        import_agent(Request(tmp_path / "model.zip", Schemas(seen, schemas_of("ppo").action)))


def test_boards_that_are_shown_alike_play_alike(tmp_path):
    space = spaces.Box(0, 1, (3, 6, 6), np.uint8)
    model = PPO("MlpPolicy", Still(space, FOUR), n_steps=8, batch_size=8, seed=0, device="cpu")
    with torch.no_grad():
        model.policy.action_net.weight.mul_(100)
    model.save(tmp_path / "model.zip")
    codec = observation_codec("still", space)
    imported = import_agent(Request(tmp_path / "model.zip", Schemas(codec.schema, schemas_of("ppo").action)))
    raw = np.random.default_rng(0).integers(0, 2, (200, 3, 6, 6)).astype(np.uint8)
    theirs, _ = model.predict(raw, deterministic=True)
    assert (imported.assembly.network.act(codec.encode(raw), None, deterministic=True).numpy() == theirs).all()
    assert len(set(theirs.tolist())) > 1


def changed(path: Any, data: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> Any:
    """The zip of a model with other entries in its JSON, or with more tensors."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["data"] = json.dumps({**json.loads(members["data"]), **(data or {})}).encode()
    if tensors:
        state, stream = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True), io.BytesIO()
        torch.save({**state, **tensors}, stream)
        members["policy.pth"] = stream.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_what_a_file_does_not_say_is_refused(tmp_path):
    path = tmp_path / "model.zip"
    build("ppo multi").save(path)
    request = Request(path, schemas_of("ppo multi"))
    assert import_agent(request).policy.origin["note"] is None
    text = {":type:": "<class 'gymnasium.spaces.box.Box'>"}
    kwargs = {"net_arch": [], "squash": True}
    for key, value in (("observation_space", text), ("policy_class", None), ("policy_kwargs", kwargs)):
        build("ppo multi").save(path)
        with pytest.raises(GraftError, match=r"does not say|only the policies|'squash', which is not known"):
            import_agent(replace(request, path=changed(path, {key: value})))
    build("ppo multi").save(path)
    swapped = {":type:": "<class 'gymnasium.spaces.multi_discrete.MultiDiscrete'>", "nvec": "[3 2]"}
    with pytest.raises(GraftError, match=r"chooses among \(3, 2\)"):
        import_agent(replace(request, path=changed(path, {"action_space": swapped})))


def test_bounds_that_were_not_compared_are_told(tmp_path):
    build("sac").save(tmp_path / "model.zip")
    space = {":type:": "<class 'gymnasium.spaces.box.Box'>", "low_repr": "[-2. ... 0.]", "high_repr": "[2. 5.]"}
    path = changed(tmp_path / "model.zip", {"action_space": space})
    assert "were not compared" in str(import_agent(Request(path, schemas_of("sac"))).policy.origin["note"])


def test_a_recurrent_policy_is_refused_as_one(tmp_path):
    path, tensors = tmp_path / "model.zip", {"lstm_actor.weight_ih_l0": torch.zeros(1024, 5)}
    build("ppo").save(path)
    policy = {"policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}}  # as RecurrentPPO's files
    with pytest.raises(GraftError, match="recurrent"):
        import_agent(Request(changed(path, policy, tensors), schemas_of("ppo")))


def test_the_record_names_the_algorithm_of_masked_policies(tmp_path):
    path, policy = tmp_path / "model.zip", {"policy_class": {"__module__": "sb3_contrib.common.maskable.policies"}}
    build("ppo").save(path)
    assert import_agent(Request(path, schemas_of("ppo"))).policy.origin["algorithm"] == "PPO"
    masked = import_agent(Request(changed(path, policy), schemas_of("ppo")))
    assert masked.policy.origin["algorithm"] == "MaskablePPO"


def test_tensors_of_an_extractor_of_somebody_else_are_refused(tmp_path):
    build("ppo pixels").save(tmp_path / "ppo.zip")
    more = {"features_extractor.linear.2.weight": torch.zeros(512, 512)}
    with pytest.raises(GraftError, match="tensors of its own"):
        import_agent(Request(changed(tmp_path / "ppo.zip", tensors=more), schemas_of("ppo pixels")))


def test_names_and_other_activations_are_refused(tmp_path):
    build("ppo").save(tmp_path / "model.zip")
    request = Request(tmp_path / "model.zip", schemas_of("ppo"))
    with pytest.raises(GraftError, match="leave out --names"):
        import_agent(replace(request, names={"kind": "categorical"}))
    with pytest.raises(GraftError, match="activation is tanh; leave out"):
        import_agent(replace(request, activation="relu"))
