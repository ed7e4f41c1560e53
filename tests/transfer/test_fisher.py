"""Importances against closed forms worked out by hand, and against one backward pass per state and scalar."""

from __future__ import annotations

from contextlib import closing

import gymnasium as gym
import pytest
import torch
from support.tiny_tasks import MATCH, NormEncoder, box, discrete, multi, observations, planes, small_network, vector
from torch.func import functional_call, jacrev, vmap

from graft import envs
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.rollouts import collect
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.fisher import (
    CHUNK,
    VARIANCE_FLOOR,
    diagonal_fisher,
    policy_and_value_fisher,
    sensitivities,
    value_fisher,
)

ACROBOT = Task("Acrobot-v1")
GRID = planes(["hero", "wall", "coin"])
XY = box(["x", "y"])
NESW = discrete("north", "east", "south", "west")
CASES = {
    "mlp, categorical": (vector(["a", "b", "c"]), NESW, None),
    "mlp, several choices": (vector(["a", "b", "c"]), multi(move=3, fire=2), None),
    "mlp, gaussian": (vector(["a", "b", "c"]), XY, None),
    "mlp, squashed": (vector(["a", "b", "c"]), XY, "squashed"),
    "mlp, greedy": (vector(["a", "b", "c"]), NESW, "greedy"),
    "grid_cnn, categorical": (GRID, NESW, None),
    "grid_cnn, gaussian": (GRID, XY, None),
}


def shaken(network: PolicyNetwork) -> PolicyNetwork:
    """The network with a policy that is far from uniform and depends on every parameter but the value head's."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def policy_names(network: PolicyNetwork) -> list[str]:
    return [name for name, _ in network.named_parameters() if not name.startswith("value.")]


def slow(network: PolicyNetwork, obs: torch.Tensor, scalars, power) -> dict[str, torch.Tensor]:
    """Mean over states of the weighted sum of ``power`` of gradients, one backward pass each.

    ``scalars(outputs of one state)`` gives pairs of a scalar to differentiate and the weight of its term.
    """
    names = policy_names(network)
    parameters = [dict(network.named_parameters())[name] for name in names]
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(obs)):
        for scalar, weight in scalars(network(obs[i : i + 1])):
            grads = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
            for t, g in zip(total, grads, strict=True):
                if g is not None:
                    t += weight * power(g)
    return {name: t / len(obs) for name, t in zip(names, total, strict=True)}


def scores(distribution, sizes=()):
    """The terms of the Fisher information, as its docstring states them."""

    def terms(outputs):
        if outputs.log_std is not None:
            for mu, sigma in zip(outputs.action[0], outputs.log_std.exp().reshape(-1), strict=True):
                precision = 1 / (float(sigma.detach()) ** 2 + VARIANCE_FLOOR)
                yield mu, precision
                yield sigma, 2 * precision
        elif distribution == "greedy":
            yield from ((value, 1.0) for value in outputs.action[0])
        else:
            for logits in outputs.action[0].split(list(sizes) or len(outputs.action[0])):
                yield from ((one, float(one.detach().exp())) for one in torch.log_softmax(logits, 0))

    return terms


def squared_norm(outputs):
    norm = (outputs.action**2).sum()
    if outputs.log_std is not None:
        norm = norm + (outputs.log_std.exp() ** 2).sum()
    yield norm, 1.0


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        tolerance = 1e-5 * float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
        assert bool((found[name] >= 0).all())


@pytest.fixture
def linear() -> PolicyNetwork:
    """Two actions, no hidden layer in the head, and features (N, 16) of which the tests take the encoder's word."""
    network = PolicyNetwork(
        Schemas(vector(["a", "b"]), discrete("left", "right")), NetworkConfig(None, {"widths": [16]}, ()), 0
    )
    with torch.no_grad():
        network.policy.out.weight.zero_()
        network.policy.out.bias.copy_(torch.tensor([3.0, 1.0]).log())  # pi = (3/4, 1/4) in every state
    return network


def test_fisher_of_a_categorical_policy_by_hand(linear):
    """E_b[(1[a = b] - pi_a)^2] = pi_a (1 - pi_a) = 3/16 for both logits, times the squared feature of the weight."""
    obs = observations(linear.schemas.observation, 7)
    found = diagonal_fisher(linear, obs, ["policy.out.weight", "policy.out.bias"])
    torch.testing.assert_close(found["policy.out.bias"], torch.full((2,), 3 / 16))
    squares = linear.encoder(obs).square().mean(0).detach()
    torch.testing.assert_close(found["policy.out.weight"], (3 / 16 * squares).expand(2, 16))


def test_fisher_of_a_gaussian_policy_by_hand():
    """1 / sigma^2 for a mean, so 4 and 1/4; 2 for every log standard deviation, whatever it is."""
    network = PolicyNetwork(Schemas(vector(["a", "b"]), XY), NetworkConfig(None, {"widths": [16]}, ()), 0)
    with torch.no_grad():
        network.policy.log_std.copy_(torch.tensor([0.5, 2.0]).log())
    obs = observations(network.schemas.observation, 7)
    found = diagonal_fisher(network, obs, ["policy.out.weight", "policy.out.bias", "policy.log_std"])
    precision = torch.tensor([4.0, 0.25])
    torch.testing.assert_close(found["policy.out.bias"], precision, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["policy.log_std"], torch.full((2,), 2.0), rtol=1e-5, atol=0)
    squares = network.encoder(obs).square().mean(0).detach()
    torch.testing.assert_close(found["policy.out.weight"], precision[:, None] * squares, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_fisher_equals_a_loop_over_samples(case):
    observation, action, distribution = CASES[case]
    network = shaken(fitted(observation, action, distribution))
    obs = observations(observation, 9)
    found = diagonal_fisher(network, obs, policy_names(network))
    expected = slow(network, obs, scores(distribution, action.sizes), torch.square)
    assert_near(found, expected)
    assert all(bool((t > 0).any()) for t in found.values())
    if action is XY:
        assert ("policy.log_std" in found) == (distribution is None)


@pytest.mark.parametrize("case", CASES)
def test_sensitivities_equal_a_loop_over_samples(case):
    observation, action, distribution = CASES[case]
    network = shaken(fitted(observation, action, distribution))
    obs = observations(observation, 9)
    found = sensitivities(network, obs, policy_names(network))
    assert_near(found, slow(network, obs, squared_norm, torch.abs))


def fitted(observation, action, distribution) -> PolicyNetwork:
    sizes = {"widths": [6, 5]} if observation.kind == "vector" else {"channels": [4, 5], "features": 7}
    config = NetworkConfig(None, sizes, (4,), distribution=distribution)
    return PolicyNetwork(Schemas(observation, action), config, 0)


def test_sensitivities_of_a_linear_head_by_hand(linear):
    """d ||o||^2 / d bias_a = 2 o_a, with o = (ln 3, 0)."""
    obs = observations(linear.schemas.observation, 5)
    found = sensitivities(linear, obs, ["policy.out.bias"])["policy.out.bias"]
    torch.testing.assert_close(found, 2 * torch.tensor([3.0, 1.0]).log())


def test_states_are_averaged_over_all_chunks():
    """More states than fit into a chunk, the last one incomplete."""
    network = shaken(small_network(MATCH))
    obs, names = observations(MATCH.observation, CHUNK + 3), policy_names(network)
    whole = diagonal_fisher(network, obs, names)
    first, rest = diagonal_fisher(network, obs[:5], names), diagonal_fisher(network, obs[5:], names)
    share = 5 / len(obs)
    assert_near(whole, {name: share * first[name] + (1 - share) * rest[name] for name in names})


def test_it_is_not_the_square_of_the_mean_gradient():
    """The error of public implementations, which gives far less for a batch of different states."""
    network = shaken(small_network(MATCH))
    obs, names = observations(MATCH.observation, 64), policy_names(network)
    found = diagonal_fisher(network, obs, names)
    log_pi = network(obs).action.log_softmax(-1)
    drawn = torch.multinomial(log_pi.detach().exp(), 1, generator=torch.Generator().manual_seed(0))
    mean = log_pi.gather(1, drawn).mean()
    parameters = dict(network.named_parameters())
    squared = torch.autograd.grad(mean, [parameters[name] for name in names])
    assert sum(float(g.square().sum()) for g in squared) < 0.2 * sum(float(t.sum()) for t in found.values())


@pytest.mark.parametrize("importances", [diagonal_fisher, sensitivities])
def test_no_states(importances):
    network = small_network(MATCH)
    with pytest.raises(GraftError, match="No states were given"):
        importances(network, observations(MATCH.observation, 0), policy_names(network))


def flags(network: PolicyNetwork) -> tuple[list[bool], list[bool]]:
    return [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("importances", [diagonal_fisher, sensitivities])
def test_flags_gradients_and_hooks_are_as_before(importances, training):
    network = shaken(small_network(MATCH)).train(training)
    network.encoder.freeze(1)
    before = flags(network)
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    found = importances(network, observations(MATCH.observation, 3), policy_names(network))
    assert flags(network) == before
    assert all(p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(t, tensors[name]) for name, t in network.state_dict().items())
    assert not any(t.requires_grad for t in found.values())


def test_frozen_parameters_have_importances_as_well():
    network = shaken(small_network(MATCH))
    obs, names = observations(MATCH.observation, 3), policy_names(network)
    free = diagonal_fisher(network, obs, names)
    network.encoder.freeze()
    assert_near(diagonal_fisher(network, obs, names), free)


@pytest.mark.parametrize("importances", [diagonal_fisher, sensitivities])
def test_normalisations_keep_their_statistics(importances, monkeypatch):
    """Their parameters go another way than those of layers, and see the statistics of evaluation."""
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = shaken(PolicyNetwork(MATCH, NetworkConfig("norm", {}, (4,)), 0)).train()
    obs, buffers = observations(MATCH.observation, 6), [b.clone() for b in network.buffers()]
    found = importances(network, obs, policy_names(network))
    assert all(torch.equal(a, b) for a, b in zip(buffers, network.buffers(), strict=True))
    assert network.training
    network.eval()
    terms, power = (scores(None), torch.square) if importances is diagonal_fisher else (squared_norm, torch.abs)
    assert_near(found, slow(network, obs, terms, power))


@pytest.mark.parametrize("case", ["mlp, categorical", "mlp, gaussian", "mlp, squashed", "grid_cnn, categorical"])
def test_both_equal_torchs_own_per_sample_jacobians(case):
    """vmap over states of jacrev: another way than the loop above, and the Fisher from the Jacobian of the outputs.

    Of logits the expectation over actions is J^T (diag(pi) - pi pi^T) J.
    """
    observation, action, distribution = CASES[case]
    network = shaken(fitted(observation, action, distribution)).eval()
    obs, names = observations(observation, 9), policy_names(network)
    chosen = {name: p.detach() for name, p in network.named_parameters() if name in names}

    def means_and_spreads(parameters, one):
        outputs = functional_call(network, parameters, (one.unsqueeze(0),))
        spread = outputs.action.new_zeros(0) if outputs.log_std is None else outputs.log_std.exp().reshape(-1)
        return torch.cat([outputs.action[0], spread])

    values = vmap(means_and_spreads, (None, 0))(chosen, obs)
    jacobians = vmap(jacrev(means_and_spreads), (None, 0))(chosen, obs)
    count = len(action.names)
    if action is XY:
        precision = 1 / (values[:, count:] ** 2 + VARIANCE_FLOOR)
        metric = torch.diag_embed(torch.cat([precision, 2 * precision], 1))
    else:
        pi = values.softmax(1)
        metric = torch.diag_embed(pi) - pi[:, :, None] * pi[:, None, :]
    fisher = {n: torch.einsum("nk...,nkl,nl...->...", j, metric, j) / len(obs) for n, j in jacobians.items()}
    norms = {n: 2 * torch.einsum("nk,nk...->n...", values, j).abs().mean(0) for n, j in jacobians.items()}
    assert_near(diagonal_fisher(network, obs, names), {name: fisher[name] for name in names})
    assert_near(sensitivities(network, obs, names), {name: norms[name] for name in names})


@pytest.mark.parametrize("importances", [diagonal_fisher, sensitivities])
def test_some_parameters_are_looked_at_as_all_are(importances):
    network = shaken(fitted(*CASES["grid_cnn, gaussian"]))
    obs, names = observations(GRID, 5), policy_names(network)
    whole = importances(network, obs, names)
    for some in (["policy.log_std"], ["encoder.blocks.0.0.bias", "policy.log_std"], ["policy.out.weight"]):
        assert_near(importances(network, obs, some), {name: whole[name] for name in some})


class Doubled(torch.nn.Conv2d):
    """A convolution that is not what it seems: its weights count twice."""

    def forward(self, hidden):
        return 2 * super().forward(hidden)


CONVOLUTIONS = {
    "stride and dilation": lambda: torch.nn.Conv2d(4, 5, (3, 2), (2, 1), (1, 2), 2),
    "no bias": lambda: torch.nn.Conv2d(4, 5, 3, bias=False),
    "padding by name": lambda: torch.nn.Conv2d(4, 5, 3, padding="same"),
    "circular": lambda: torch.nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"),
    "groups": lambda: torch.nn.Conv2d(4, 6, 3, groups=2),
    "subclass": lambda: Doubled(4, 5, 3),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("importances", [diagonal_fisher, sensitivities])
def test_convolutions_of_every_kind(kind, importances):
    network = fitted(*CASES["grid_cnn, categorical"])
    blocks = network.encoder.blocks
    with torch.random.fork_rng(devices=[]):
        blocks[1][0] = CONVOLUTIONS[kind]()
        obs = observations(GRID, 5)
        blocks[2][1] = torch.nn.Linear(blocks[1](blocks[0](obs.float())).flatten(1).shape[1], 7)
    shaken(network)
    terms, power = (scores(None), torch.square) if importances is diagonal_fisher else (squared_norm, torch.abs)
    assert_near(importances(network, obs, policy_names(network)), slow(network, obs, terms, power))


@pytest.mark.parametrize("importances", [diagonal_fisher, sensitivities])
def test_the_random_numbers_of_the_process_are_left_alone(importances):
    network = shaken(fitted(*CASES["mlp, gaussian"]))
    before = torch.get_rng_state()
    importances(network, observations(network.schemas.observation, 3), policy_names(network))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", ["mlp, categorical", "grid_cnn, gaussian"])
def test_the_value_functions_is_the_mean_square_of_its_gradient(case):
    schema, actions, _ = CASES[case]
    network = shaken(small_network(Schemas(schema, actions)))
    obs = observations(schema, 5)
    found = value_fisher(network, obs, policy_names(network))
    wanted = slow(network, obs, lambda outputs: [(outputs.value[0], 1.0)], torch.square)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-8)
    assert not any(found[name].any() for name in found if name.startswith("policy."))


def test_policy_and_value_have_equal_means():
    network = shaken(small_network(MATCH))
    obs, names = observations(MATCH.observation, 6), [n for n in policy_names(network) if n.startswith("encoder.")]
    policy, value = diagonal_fisher(network, obs, names), value_fisher(network, obs, names)
    both = policy_and_value_fisher(network, obs, names, 0.5)
    ratio = sum(t.sum() for t in policy.values()) / sum(t.sum() for t in value.values())
    for name in names:
        torch.testing.assert_close(both[name], policy[name] + 0.5 * ratio * value[name])
    assert all(torch.equal(t, policy[n]) for n, t in policy_and_value_fisher(network, obs, names, 0.0).items())


def test_values_that_the_algorithm_does_not_train():
    network = PolicyNetwork(MATCH, NetworkConfig(None, {}, (8,), distribution="greedy"), 0)
    with pytest.raises(GraftError, match="value_fisher=1 is not allowed here: an algorithm with critics of its own"):
        policy_and_value_fisher(network, observations(MATCH.observation, 2), ["encoder.blocks.0.1.weight"], 1.0)


def swinging() -> PolicyNetwork:
    """A policy that brings Acrobot up, learned from a rule: push as the second joint turns, which adds energy."""
    network = PolicyNetwork(envs.schemas(ACROBOT), NetworkConfig("mlp", {"widths": [32, 32]}, (16,)), 0)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(300):
        angles = (torch.rand(256, 2, generator=generator) - 0.5) * 2 * torch.pi
        speeds = torch.randn(256, 2, generator=generator) * torch.tensor([2.0, 4.0])
        obs = torch.cat([angles[:, :1].cos(), angles[:, :1].sin(), angles[:, 1:].cos(), angles[:, 1:].sin(), speeds], 1)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(obs).action, 2 * (speeds[:, 1] > 0).long()).backward()
        optimiser.step()
    return network


def every_state(network: PolicyNetwork, episodes: int) -> torch.Tensor:
    """All states of so many whole episodes of Acrobot, one after the other."""
    env, generator, states = gym.make("Acrobot-v1"), torch.Generator().manual_seed(99), []
    for episode in range(episodes):
        obs, over = env.reset(seed=10_000 + episode)[0], False
        while not over:
            states.append(torch.from_numpy(obs))
            obs, _, ended, cut, _ = env.step(int(network.act(states[-1][None], generator)[0]))
            over = ended or cut
    env.close()
    return torch.stack(states)


def cosine(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(
        torch.nn.functional.cosine_similarity(*(torch.cat([t.flatten() for t in x.values()]) for x in (a, b)), 0)
    )


@pytest.mark.slow
def test_of_acrobot_it_is_that_of_whole_episodes():
    """Of the first steps it is something else, as it was before whole episodes were played."""
    network = swinging()
    names = [name for name, _ in network.named_parameters() if name.startswith("encoder.")]
    wanted = diagonal_fisher(network, every_state(network, 60), names)
    for seed in (0, 1):
        with closing(envs.make(ACROBOT, 64, 1000 * seed)) as env:
            states = collect(network, env, 2048, torch.Generator().manual_seed(seed)).observations
        assert cosine(diagonal_fisher(network, states, names), wanted) >= 0.97
    with closing(envs.make(ACROBOT, 64, 0)) as env:
        obs, generator, early = env.reset()[0], torch.Generator().manual_seed(0), []
        for _ in range(32):
            early.append(torch.from_numpy(obs))
            obs = env.step(network.act(early[-1], generator).numpy())[0]
    assert cosine(diagonal_fisher(network, torch.cat(early), names), wanted) < 0.95
