"""Learning rates of their own for some parameters of an optimiser that a library's schedule governs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import MATCH, REACH, TASK, assert_same, small_config, small_network, small_ppo, weights

from graft import envs
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.sb3.learner_state import network_optimizer
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.agents.training.learning_rates import scale_rates
from graft.errors import GraftError

pytestmark = pytest.mark.usefixtures("tiny_tasks")

RATES = {"encoder.blocks.0.1.weight": 0.25, "encoder.blocks.0.1.bias": 0.25, "encoder.blocks.1.1.weight": 0.5}


def ones(network: PolicyNetwork) -> None:
    """Gradients of one everywhere."""
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)


def moved(network: PolicyNetwork, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far each parameter went, the same for all of its entries."""
    found = {}
    for name, tensor in weights(network).items():
        steps = (before[name] - tensor).double()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=0, atol=2e-7)
        found[name] = float(steps.mean())
    return found


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
def test_a_step_goes_as_far_as_the_factor_says(optimiser):
    """With a gradient of one everywhere, the first step of either is the learning rate (Adam's but for 1e-8)."""
    network = small_network(MATCH)
    held = optimiser(network.parameters(), lr=0.01)
    scale_rates(held, network, RATES)
    before = weights(network)
    ones(network)
    held.step()
    steps = moved(network, before)
    assert set(RATES) < set(steps)
    for name, step in steps.items():
        assert step == pytest.approx(0.01 * RATES.get(name, 1.0), rel=1e-4), name


def test_the_rates_follow_a_schedule():
    """The library sets every group's learning rate to the same number."""
    network = small_network(MATCH)
    held = torch.optim.SGD(network.parameters(), lr=1.0)
    scale_rates(held, network, RATES)
    for rate in (0.1, 0.02, 0.04):
        for group in held.param_groups:
            group["lr"] = rate
        before = weights(network)
        ones(network)
        held.step()
        for name, step in moved(network, before).items():
            assert step == pytest.approx(rate * RATES.get(name, 1.0), rel=1e-3), name


def test_every_parameter_is_in_one_group_with_the_same_options():
    network = small_network(MATCH)
    held = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.6), eps=1e-3)
    scale_rates(held, network, RATES)
    assert sorted(id(p) for g in held.param_groups for p in g["params"]) == sorted(map(id, network.parameters()))
    assert [group.get("factor") for group in held.param_groups] == [None, 0.25, 0.5]
    assert {(group["betas"], group["eps"]) for group in held.param_groups} == {((0.5, 0.6), 1e-3)}


def test_a_factor_of_zero_keeps_a_parameter_and_one_changes_nothing():
    network = small_network(MATCH)
    held = torch.optim.Adam(network.parameters(), lr=0.01)
    scale_rates(held, network, {"encoder.blocks.0.1.weight": 0.0, "encoder.blocks.0.1.bias": 1.0})
    before = weights(network)
    ones(network)
    held.step()
    steps = moved(network, before)
    assert steps["encoder.blocks.0.1.weight"] == 0
    assert steps["encoder.blocks.0.1.bias"] == pytest.approx(0.01, rel=1e-4)


def test_no_rates_no_groups():
    network = small_network(MATCH)
    held = torch.optim.Adam(network.parameters())
    scale_rates(held, network, {})
    assert len(held.param_groups) == 1


def test_what_the_optimiser_remembers_survives_a_checkpoint():
    """Groups, factors and moments: a second optimiser goes on as the first does."""
    networks = [small_network(MATCH) for _ in range(2)]
    first, second = (torch.optim.Adam(n.parameters(), lr=0.01) for n in networks)
    for held, network in zip((first, second), networks, strict=True):
        scale_rates(held, network, RATES)
    ones(networks[0])
    first.step()
    networks[1].load_exactly(weights(networks[0]))
    second.load_state_dict(first.state_dict())
    for held, network in zip((first, second), networks, strict=True):
        ones(network)
        held.step()
    assert_same(weights(networks[0]), weights(networks[1]))


def test_errors():
    network = small_network(MATCH)
    held = torch.optim.Adam(network.encoder.parameters())
    for name in ("encoder.blocks.7.1.weight", "policy.out.weight"):
        with pytest.raises(GraftError, match=f"learning rate but are not trained: {name}"):
            scale_rates(held, network, {name: 0.5})
    with pytest.raises(GraftError, match="leave at least one at the common one"):
        scale_rates(held, network, {f"encoder.{name}": 0.5 for name, _ in network.encoder.named_parameters()})


def test_which_optimiser_it_is():
    ppo, network = small_ppo(), small_network(MATCH)
    learner = ppo.learner(network, BatchVecEnv(envs.make(TASK, ppo.num_envs, 0)), 0, None, "cpu")
    assert network_optimizer(learner) is learner.policy.optimizer
    sac = ALGORITHMS["sac"](num_envs=2, buffer=16, critic=(4,))
    config = replace(small_config("vector"), distribution="squashed")
    actor = PolicyNetwork(envs.schemas(REACH), config, 0)
    learner = sac.learner(actor, BatchVecEnv(envs.make(REACH, 2, 0)), 0, None, "cpu")
    held = network_optimizer(learner)
    assert {id(p) for group in held.param_groups for p in group["params"]} == set(map(id, actor.parameters()))


@pytest.mark.parametrize("hooked", [False, True])
def test_training_with_rates(hooked):
    """A factor of one, in a group of its own, changes no bit; a factor of zero keeps a block as it is."""

    def trained(rates):
        network = small_network(MATCH)
        before = weights(network)
        hooks = Hooks(gradients=(lambda grads, *_: grads) if hooked else None, rates=rates)
        plan = Evaluation(every=1000, episodes=1, num_envs=1)
        train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, plan, hooks, "cpu"))
        return before, weights(network)

    _, plain = trained({})
    _, ones = trained(dict.fromkeys(RATES, 1.0))
    before, zeros = trained(dict.fromkeys(RATES, 0.0))
    assert_same(plain, ones)
    assert {name for name in before if torch.equal(before[name], zeros[name])} == set(RATES)
