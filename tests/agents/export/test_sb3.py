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
from support.export_cases import ACTS, NETWORKS, V, network_of, recorded, with_masks
from support.tiny_tasks import box, planes

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.exporter import EXPORTERS, Agent
from graft.agents.networks.normaliser import normalisers
from graft.agents.sb3.plain import plain_algorithm, predictor, spaces, to_zip
from graft.envs.core.schema import ActionSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError

TASK = Task("none/None-v0")
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
    [("discrete", PPO), ("multi-discrete", PPO), ("torques", PPO), ("bounded", PPO), ("box", PPO), ("squashed", SAC)],
)
def test_greedy_actions_and_values_are_the_same(case, kind):
    network = NETWORKS[case]()
    within_clipping(network)
    model = plain_algorithm(network, TASK)
    assert type(model) is kind
    recording = recorded(network)
    found = predictor(to_zip(model), kind)(recording.observations)
    np.testing.assert_allclose(found, recording.actions, rtol=1e-5, atol=1e-5)
    if kind is PPO:
        obs = torch.from_numpy(recording.observations)
        values = model.policy.predict_values(obs).squeeze(-1).detach()
        torch.testing.assert_close(values, network(obs).value.detach(), rtol=1e-4, atol=1e-4)


def test_statistics_and_the_spread_are_folded_in():
    actions = ActionSchema("box", ("turn", "push"), (-2.0, 0.0), (2.0, 5.0))
    network = within_clipping(network_of(V, actions, normalise=True))
    model, recording = plain_algorithm(network, TASK), recorded(network)
    found = predictor(to_zip(model), PPO)(recording.observations)
    np.testing.assert_allclose(found, recording.actions, atol=1e-4)
    spread = model.policy.log_std.exp().detach()
    torch.testing.assert_close(spread, network.policy.log_std.exp().detach() * torch.tensor([2.0, 2.5]))


def test_q_values_and_their_target_are_the_same():
    network = network_of(planes("ab"), ACTS, "greedy", encoder="mlp")
    model, recording = plain_algorithm(network, TASK), recorded(network)
    assert type(model) is DQN
    obs = torch.from_numpy(recording.observations)
    for q_net in (model.policy.q_net, model.policy.q_net_target):
        torch.testing.assert_close(q_net(obs).detach(), recording.outputs.action, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: NETWORKS["planes"](), "cannot hold this agent's grid_cnn, only the encoder mlp; --to onnx"),
        (lambda: NETWORKS["two columns"](), "cannot hold this agent's progressive network"),
        (lambda: network_of(with_masks(V, ACTS), ACTS), "no action masks"),
        (lambda: NETWORKS["greedy"](), "one activation, this agent has ReLU, Tanh"),
    ],
)
def test_what_its_policies_cannot_hold_is_refused(network, said):
    with pytest.raises(GraftError, match=said):
        plain_algorithm(network(), TASK)


@pytest.mark.slow
def test_spaces_are_those_that_the_library_compares():
    task = Task("CartPole-v1")
    own = schemas(task)
    observation, action = spaces(task, own)
    with closing(gym.make("CartPole-v1")) as env:
        assert (observation, action) == (env.observation_space, env.action_space)
    assert spaces(TASK, Schemas(V, box("ab")))[1].shape == (2,)


def test_clipping_that_matters_is_noticed(tmp_path):
    network = NETWORKS["discrete"]()
    Checkpoint.of(network, TASK).save(tmp_path / "agent")
    agent = Agent(Checkpoint.load(tmp_path / "agent"), network, recorded(network), "0")
    with pytest.raises(GraftError, match=r"nothing was written. This agent's normaliser clips.*--to onnx"):
        EXPORTERS["sb3"].write(agent, tmp_path / "agent.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


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
