"""The zip of plain Stable-Baselines3: the same greedy actions, and it is loaded and trained on without Graft."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.torch_layers import NatureCNN
from support.export_cases import ACTS, NETWORKS, V, network_of, recorded, with_masks
from support.tiny_tasks import box, pixels, planes

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.exporter import EXPORTERS, Agent
from graft.agents.export.recording import record_states, reference
from graft.agents.networks.normaliser import normalisers
from graft.agents.sb3.plain import own_spaces, plain_algorithm, predictor, to_zip
from graft.envs.core.schema import ActionSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.errors import GraftError

TASK = Task("Graft/Dodge-v0")  # no environment of Gymnasium's: the zip has the network's own spaces


def plain(network):
    return plain_algorithm(network, own_spaces(TASK, network.schemas))


def same(obs):
    return obs


class Counted(gym.Env):
    """Two numbers, and actions that begin at 1."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3, start=1)


class Table(Counted):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2, 3)), gym.spaces.Discrete(3)


class Screen(gym.Env):
    """Noise, 40 cells high and 36 wide, channels last."""

    observation_space, action_space = gym.spaces.Box(0, 255, (40, 36, 3), np.uint8), gym.spaces.Discrete(3)

    def _shown(self):
        return self.np_random.integers(0, 256, (40, 36, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._shown(), {}

    def step(self, action):
        return self._shown(), float(action), bool(self.np_random.random() < 0.1), False, {}


for kind in (Counted, Table, Screen):
    gym.register(f"export/{kind.__name__}-v0", kind)


def agent_of(task, folder):
    """An agent of random weights that has seen no statistics."""
    own = schemas(task)
    network = network_of(own.observation, own.action)
    Checkpoint.of(network, task).save(folder / "agent")
    return Agent(Checkpoint.load(folder / "agent"), network, record_states(network, task, 200, seed=0), "0")


PLAIN = """
import sys
sys.modules["graft"] = None  # an import of it fails
import gymnasium, numpy, torch
from stable_baselines3 import PPO
env = gymnasium.make("CartPole-v1")
model = PPO.load(sys.argv[1], env=env, n_steps=64, batch_size=32)
seen = numpy.load(sys.argv[2])
assert (model.predict(seen["obs"], deterministic=True)[0] == seen["actions"]).all()
before = [p.clone() for p in model.policy.parameters()]
model.learn(128)
assert any((a != b).any() for a, b in zip(before, model.policy.parameters()))
print("learned", model.num_timesteps)
"""


def within_clipping(network):
    """Such statistics that no value of the recorded states is clipped."""
    for normaliser in normalisers(network):
        normaliser.running_var.copy_(torch.linspace(0.5, 2, len(normaliser.running_var)))
    return network


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("bounded", PPO),
        *(pytest.param(case, PPO, marks=pytest.mark.slow) for case in ("discrete", "multi-discrete", "torques", "box")),
        pytest.param("squashed", SAC, marks=pytest.mark.slow),
    ],
)
def test_greedy_actions_and_values_are_the_same(case, kind):
    network = NETWORKS[case]()
    within_clipping(network)
    model = plain(network)
    assert type(model) is kind
    recording = recorded(network)
    found = predictor(to_zip(model), kind, same)(recording.observations)
    np.testing.assert_allclose(found, recording.actions, rtol=1e-5, atol=1e-5)
    if kind is PPO:
        obs = torch.from_numpy(recording.observations)
        values = model.policy.predict_values(obs).squeeze(-1).detach()
        torch.testing.assert_close(values, network(obs).value.detach(), rtol=1e-4, atol=1e-4)


def test_statistics_and_the_spread_are_folded_in():
    actions = ActionSchema("box", ("turn", "push"), (-2.0, 0.0), (2.0, 5.0))
    network = within_clipping(network_of(V, actions, normalise=True))
    model, recording = plain(network), recorded(network)
    found = predictor(to_zip(model), PPO, same)(recording.observations)
    np.testing.assert_allclose(found, recording.actions, atol=1e-4)
    spread = model.policy.log_std.exp().detach()
    torch.testing.assert_close(spread, network.policy.log_std.exp().detach() * torch.tensor([2.0, 2.5]))


def test_q_values_and_their_target_are_the_same():
    network = network_of(planes("ab"), ACTS, "greedy", encoder="mlp")
    model, recording = plain(network), recorded(network)
    assert type(model) is DQN
    obs = torch.from_numpy(recording.observations)
    for q_net in (model.policy.q_net, model.policy.q_net_target):
        torch.testing.assert_close(q_net(obs).detach(), torch.from_numpy(recording.scores), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("actions", "distribution", "kind"),
    [(ACTS, None, PPO), (ACTS, "greedy", DQN), (box(["x", "y"]), "squashed", SAC)],
    ids=["PPO", "DQN", "SAC"],
)
def test_pictures_are_of_its_cnn_policy(actions, distribution, kind):
    network = network_of(pixels("rgb", 40, 36), actions, distribution, "nature_cnn", features=24)
    model, recording = plain(network), recorded(network)
    assert (type(model), model.policy.features_extractor_class) == (kind, NatureCNN)
    found = predictor(to_zip(model), kind, same)(recording.observations)
    np.testing.assert_allclose(found, recording.actions, rtol=1e-5, atol=1e-5)
    obs = torch.from_numpy(recording.observations)
    if kind is PPO:
        values = model.policy.predict_values(obs).squeeze(-1).detach()
        torch.testing.assert_close(values, network(obs).value.detach(), rtol=1e-4, atol=1e-4)
    if kind is DQN:
        for q_net in (model.policy.q_net, model.policy.q_net_target):
            torch.testing.assert_close(q_net(obs).detach(), torch.from_numpy(recording.scores), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["nature_cnn", "mlp"])
def test_screens_of_an_environment_are_loaded_beside_it_and_trained_on(encoder, tmp_path):
    """The environment shows channels last, which the library turns round as Graft does."""
    task = Task("export/Screen-v0")
    own = schemas(task)
    network = network_of(own.observation, own.action, None, encoder)
    Checkpoint.of(network, task).save(tmp_path / "agent")
    agent = Agent(Checkpoint.load(tmp_path / "agent"), network, record_states(network, task, 64, seed=0), "0")
    EXPORTERS["sb3"].write(agent, tmp_path / "agent.zip")
    with closing(gym.make(task.id)) as env, closing(make(task, 1, 0)) as shown:
        model = PPO.load(tmp_path / "agent.zip", env=env, device="cpu", n_steps=16, batch_size=16)
        obs, picture = env.reset(seed=3)[0], shown.reset(seed=3)[0]
        wanted = network.act(picture, None, deterministic=True).numpy()
        assert model.predict(obs, deterministic=True)[0] == wanted[0]
        before = [p.clone() for p in model.policy.parameters()]
        model.learn(16)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: network_of(pixels("rgb"), ACTS, None, "nature_cnn", activation="tanh"), "NatureCNN has ReLU"),
        (lambda: NETWORKS["planes"](), "cannot hold this agent's grid_cnn, only mlp and nature_cnn; --to onnx"),
        (lambda: NETWORKS["two columns"](), "cannot hold this agent's progressive network"),
        (lambda: network_of(with_masks(V, ACTS), ACTS), "no action masks"),
        (lambda: NETWORKS["greedy"](), "one activation, this agent has ReLU, Tanh"),
    ],
)
def test_what_its_policies_cannot_hold_is_refused(network, said):
    with pytest.raises(GraftError, match=said):
        plain(network())


@pytest.mark.parametrize(
    "game",
    [
        "FrozenLake-v1",
        *(pytest.param(game, marks=pytest.mark.slow) for game in ("CartPole-v1", "MountainCarContinuous-v0")),
    ],
)
def test_the_library_loads_it_beside_the_environment_and_plays_the_same(game, tmp_path):
    task = Task(game)
    agent = agent_of(task, tmp_path)
    EXPORTERS["sb3"].write(agent, tmp_path / "agent.zip")
    with closing(gym.make(game)) as env, closing(make(task, 1, 0)) as own:
        model = PPO.load(tmp_path / "agent.zip", env=env, device="cpu")
        obs, shown = env.reset(seed=3)[0], own.reset(seed=3)[0]
        for _ in range(5):
            action = model.predict(obs, deterministic=True)[0]
            wanted = agent.network.act(shown, None, deterministic=True).numpy()
            np.testing.assert_allclose(action, wanted[0], rtol=1e-5, atol=1e-5)
            obs, _, ended, *_ = env.step(action if action.ndim else int(action))
            shown = own.step(wanted)[0]
            if ended:
                break


@pytest.mark.parametrize(
    ("game", "said"),
    [
        ("export/Counted-v0", r"takes Discrete\(3, start=1\).*numbered otherwise; --to onnx"),
        ("export/Table-v0", r"shows Box.*\(2, 3\).*no zip fits; --to onnx"),
    ],
)
def test_what_the_library_would_read_otherwise_is_refused(game, said):
    with pytest.raises(GraftError, match=said):
        own_spaces(Task(game), schemas(Task(game)))


def test_an_agent_with_other_names_than_the_task_is_refused():
    task = Task("CartPole-v1")
    with pytest.raises(GraftError, match="other observations or actions than CartPole-v1"):
        own_spaces(task, Schemas(V, schemas(task).action))


def refusal(network, observations, folder):
    """What is said of an agent that the zip cannot be."""
    Checkpoint.of(network, TASK).save(folder / "agent")
    agent = Agent(Checkpoint.load(folder / "agent"), network, reference(network, observations, "drawn"), "0")
    with pytest.raises(GraftError, match="nothing was written") as error:
        EXPORTERS["sb3"].write(agent, folder / "agent.zip")
    assert [path.name for path in folder.iterdir()] == ["agent"]
    return str(error.value)


def test_clipping_that_matters_is_noticed(tmp_path):
    network = NETWORKS["discrete"]()
    said = refusal(network, recorded(network).observations, tmp_path)
    assert said.endswith("This agent's normaliser clips, which no MlpPolicy can; --to onnx keeps it.")


def test_rounding_is_not_said_to_be_clipping(tmp_path):
    network = network_of(V, NETWORKS["bounded"]().schemas.action, normalise=True)
    for normaliser in normalisers(network):
        normaliser.running_count.fill_(100)
        normaliser.running_mean.fill_(2000.0)
        normaliser.running_var.fill_(1.0)
    near = 2000 + np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    assert "rounds them away; --to onnx" in refusal(network, near, tmp_path)


@pytest.mark.slow
def test_a_process_without_graft_plays_and_trains_it(tmp_path):
    task = Task("CartPole-v1")
    network = within_clipping(network_of(schemas(task).observation, schemas(task).action, normalise=True))
    Checkpoint.of(network, task).save(tmp_path / "agent")
    checkpoint, recording = Checkpoint.load(tmp_path / "agent"), recorded(network)
    EXPORTERS["sb3"].write(Agent(checkpoint, network, recording, "0"), tmp_path / "agent.zip")
    np.savez(tmp_path / "seen.npz", obs=recording.observations, actions=recording.actions)
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "agent.zip"), str(tmp_path / "seen.npz")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "learned 128" in done.stdout, done.stderr
