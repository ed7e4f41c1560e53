"""Action masks in networks and training: what is forbidden has probability 0 and is never played, by any backend."""

from __future__ import annotations

from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from support.masked_envs import KINDS, Masked, Seen, register
from support.tiny_tasks import MATCH, TINY, assert_same, discrete, multi, observations, planes, vector, weights
from support.trainings import trained
from torch.distributions import Categorical

from graft import envs
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.agents.training.algorithm import architecture_for
from graft.agents.training.backend import Evaluation, TrainJob
from graft.agents.training.evaluate import evaluate, play_episodes
from graft.agents.training.rollouts import collect, collect_random
from graft.envs import Task
from graft.envs.core.schema import ActionSchema, Schemas, flag_names, masked

register()
BACKENDS = ("sb3", "rllib")
FEW = Evaluation(every=10_000, episodes=16, num_envs=8)


def masked_schemas(observation: Any, actions: ActionSchema) -> Schemas:
    return Schemas(masked(observation, flag_names(actions)), actions)


def states(schemas: Schemas, count: int = 64) -> torch.Tensor:
    """Random observations with random flags, of which one of each choice is 0."""
    seen = observations(schemas.observation.plain, count).flatten(1)
    rng, flags = np.random.default_rng(1), []
    for size in schemas.action.sizes or (len(schemas.action.names),):
        part = rng.random((count, size)) < 0.5
        part[np.arange(count), rng.integers(size, size=count)] = False
        flags.append(part)
    return torch.cat([seen, torch.as_tensor(np.concatenate(flags, 1)).to(seen.dtype)], 1)


def network_of(schemas: Schemas, seed: int = 0, **config: Any) -> PolicyNetwork:
    network = PolicyNetwork(schemas, NetworkConfig(head=(8,), **config), seed)
    with torch.no_grad():
        network.policy.out.weight.mul_(100)  # actions that are far from equally likely
    return network


def by_hand(logits: torch.Tensor, allowed: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of an action and entropy, state by state, of a categorical policy over what is allowed alone."""
    found = []
    for row, may, action in zip(logits, allowed, actions, strict=True):
        those = may.nonzero().flatten()
        left = Categorical(logits=row[those])
        found.append((left.log_prob((those == action).nonzero().squeeze()), left.entropy()))
    logp, entropy = zip(*found, strict=True)
    return torch.stack(logp), torch.stack(entropy)


@pytest.mark.parametrize("by", BACKENDS)
@pytest.mark.parametrize("actions", [discrete(*"abcde"), multi(move=3, fire=2)], ids=["discrete", "multi"])
@pytest.mark.parametrize("seen", [vector("xyz"), planes("xy", 5, 5)], ids=["vector", "planes"])
def test_probabilities_are_those_of_what_is_allowed(by: str, actions: ActionSchema, seen: Any) -> None:
    schemas = masked_schemas(seen, actions)
    network, obs = network_of(schemas), states(schemas)
    plain = PolicyNetwork(Schemas(seen, actions), network.config, 0)
    plain.load_exactly(network.state_dict())
    logits = plain(network.split(obs)[0]).action
    drawn = network.act(obs, torch.Generator().manual_seed(0))
    if by == "sb3":
        policy_class: Any = import_module("graft.agents.sb3.policy").NetworkPolicy
        policy = policy_class(schemas.observation.space(), actions.space(), lambda _: 1e-3, network)
        _, logp, entropy = policy.evaluate_actions(obs, drawn)
    else:
        module: Any = import_module("graft.agents.rllib.module")
        outputs = network(obs)
        distribution = module.distribution_class(actions).from_logits(module.distribution_inputs(outputs))
        logp, entropy = distribution.logp(drawn), distribution.entropy()
    wanted_logp, wanted_entropy, first = torch.zeros(len(obs)), torch.zeros(len(obs)), 0
    allowed = ~torch.as_tensor(schemas.forbidden(obs.numpy()))
    for k, size in enumerate(actions.sizes or (len(actions.names),)):
        place = slice(first, first + size)
        one = drawn[:, k] if actions.sizes else drawn
        assert allowed[:, place].gather(1, one.unsqueeze(1)).all()
        found = by_hand(logits[:, place], allowed[:, place], one)
        wanted_logp, wanted_entropy, first = wanted_logp + found[0], wanted_entropy + found[1], first + size
    torch.testing.assert_close(logp, wanted_logp)
    torch.testing.assert_close(entropy, wanted_entropy)
    slope = torch.autograd.grad(logp.sum(), network.policy.out.bias)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(wanted_logp.sum(), plain.policy.out.bias)[0])


def test_the_likeliest_action_is_an_allowed_one() -> None:
    schemas = masked_schemas(vector("xyz"), discrete(*"abcde"))
    for config in ({}, {"distribution": "greedy"}):
        network, obs = network_of(schemas, **config), states(schemas, 500)
        played = network.act(obs, None, deterministic=True)
        assert not schemas.forbidden(obs.numpy())[np.arange(500), played].any()


def test_flags_are_found_by_name_and_actions_without_one_are_allowed() -> None:
    """Heads of another task read the same observations: its actions have other places, or no flags."""
    seen = masked(vector("xyz"), flag_names(discrete("a", "b")))
    network = network_of(Schemas(seen, discrete("c", "b", "a")))
    obs = torch.tensor([[0.1, 0.2, 0.3, 1.0, 0.0]])
    assert (network(obs).action[0] == -1e8).tolist() == [False, False, True]


def test_later_columns_mask_their_own_actions() -> None:
    seen, actions = vector("xyz"), discrete(*"abc")
    earlier = network_of(Schemas(seen, actions))
    schemas = masked_schemas(seen, actions)
    network = ProgressiveNetwork.beside(earlier, schemas, NetworkConfig(head=(8,)), 1)
    obs = states(schemas)
    assert torch.equal(network(obs).action == -1e8, torch.as_tensor(schemas.forbidden(obs.numpy())))
    unmasked = ProgressiveNetwork.beside(earlier, Schemas(seen, actions), NetworkConfig(head=(8,)), 1)
    unmasked.load_exactly(network.state_dict())
    torch.testing.assert_close(network(obs).value, unmasked(obs[:, :3]).value)


def masked_task(where: str = "info", **more: Any) -> Task:
    return Task("Masked-v0", {"where": where, **more})


@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize(
    ("by", "algorithm", "where", "sizes"),
    [
        ("sb3", "ppo", "info", []),
        pytest.param("sb3", "ppo", "observation", [3, 2], marks=pytest.mark.slow),
        ("sb3", "dqn", "method", []),
        ("rllib", "ppo", "method", [3, 2]),
        pytest.param("rllib", "ppo", "observation", [], marks=pytest.mark.slow),
        ("rllib", "appo", "info", []),
    ],
)
def test_training_never_plays_what_is_forbidden(by: str, algorithm: str, where: str, sizes: list[int]) -> None:
    Seen.reset()
    task = masked_task(where, sizes=sizes)
    backend: Any = import_module(f"graft.agents.{by}")
    options = {
        "ppo": TINY,
        "appo": {"num_envs": 8, "num_steps": 16},
        "dqn": {"num_envs": 4, "buffer": 400, "batch": 16, "learning_starts": 60, "exploration_final": 0.5},
    }
    learner = backend.ALGORITHMS[algorithm](**options[algorithm])
    learner.check(envs.schemas(task))
    network = PolicyNetwork(envs.schemas(task), architecture_for(learner, NetworkConfig(head=(8,))), 0)
    before = weights(network)
    result = backend.train(TrainJob(network, task, learner, 256, 0, lambda *_: None, FEW, device="cpu"))
    assert result.env_steps >= 256
    assert any(not torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert Seen.played > 256
    assert (Seen.forbidden, dict(result.faults)) == (0, {})


@pytest.mark.parametrize("where", KINDS)
def test_no_state_is_collected_by_a_forbidden_action(where: str) -> None:
    Seen.reset()
    task = masked_task(where)
    network = network_of(envs.schemas(task))
    with closing(envs.make(task, 8, 0)) as env:
        found = collect(network, env, 300, torch.Generator().manual_seed(0))
        assert len(collect_random(env, 300, 0)) == 300
    forbidden = network.schemas.forbidden(found.observations.numpy())
    assert not forbidden[np.arange(len(forbidden)), found.actions].any()
    assert Seen.played >= 600
    assert Seen.forbidden == 0


def test_returns_are_those_of_a_plain_loop() -> None:
    task, episodes = masked_task(), 3
    network = network_of(envs.schemas(task))
    wanted: list[float] = []
    for i in range(4):
        env = Masked()
        obs, info = env.reset(seed=11 + i)
        for _ in range(episodes):
            total, ended = 0.0, False
            while not ended:
                flags = ~info["action_mask"]
                shown = torch.as_tensor(np.concatenate([obs, flags]).astype(np.float32)).unsqueeze(0)
                logits = network.heads(network.encoder(shown[:, :4])).action[0].detach().numpy()
                obs, reward, ended, _, info = env.step(int(np.where(flags, -np.inf, logits).argmax()))
                total += reward
            wanted.append(total)
            obs, info = env.reset()
    with closing(envs.make(task, 4, 11)) as env:
        played = play_episodes(lambda obs: network.act(obs, None, deterministic=True).numpy(), env, 4 * episodes, 100)
    assert sorted(played.returns.tolist()) == sorted(wanted)


@pytest.mark.usefixtures("tiny_tasks", "one_ray")
@pytest.mark.parametrize("by", ["sb3", pytest.param("rllib", marks=pytest.mark.slow)])
def test_masks_that_forbid_nothing_change_nothing_and_are_resumed(by: str, tmp_path: Path) -> None:
    """A board beside flags that are all 0 trains as the board alone, also from its snapshot: to the bit."""
    task = Task("Graft/Dodge-v0")
    plain = envs.schemas(task)
    small = {"options": {"channels": [4], "kernels": [3], "strides": [2], "pools": [1], "features": 16}, "head": (8,)}

    def network(schemas: Schemas) -> PolicyNetwork:
        return PolicyNetwork(schemas, NetworkConfig(**small), 0)  # type: ignore[arg-type]

    flagged = masked_schemas(plain.observation, plain.action)
    reference = trained(by, network(plain), task, 384, evaluation=FEW)
    run = trained(by, network(flagged), task, 384, evaluation=FEW)
    for name, tensor in run.network.state_dict().items():  # convolutions of flat observations are not channels-last
        torch.testing.assert_close(tensor, reference.network.state_dict()[name], rtol=0, atol=1e-5)
    kept = {"snapshots": Snapshots(tmp_path, env_steps=128)}
    trained(by, network(flagged), task, 256, evaluation=FEW, more=kept)
    resumed = trained(by, network(flagged), task, 384, evaluation=FEW, more=kept)
    assert_same(dict(resumed.network.state_dict()), dict(run.network.state_dict()))
    assert resumed.result.final_returns == run.result.final_returns


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize("by", BACKENDS)
def test_a_masked_task_is_learned(by: str) -> None:
    """The first allowed action is worth 1 in each of 6 steps; a third of it comes by chance."""
    task = masked_task(count=6)
    network = PolicyNetwork(envs.schemas(task), NetworkConfig(), 0)
    run = trained(by, network, task, 20_000, evaluation=Evaluation(every=50_000, episodes=64, num_envs=64), num_envs=16)
    with closing(envs.make(task, 64, 5)) as env:
        played = evaluate(run.network, env, 128, torch.Generator().manual_seed(0))
    assert played.returns.mean() - 0.125 * 15 > 5.0


def test_unmasked_networks_are_the_same_to_the_bit() -> None:
    network = PolicyNetwork(MATCH, NetworkConfig(head=(8,)), 0)
    obs = observations(MATCH.observation, 10)
    assert network.split(obs) == (obs, None)
    outputs = network.heads(network.encoder(obs))
    assert torch.equal(network(obs).action, outputs.action)
    assert network(obs).without(None).action.shape == (10, 4)
    assert isinstance(MATCH.action.space(), gym.spaces.Discrete)
