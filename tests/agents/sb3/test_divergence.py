"""A training that diverges ends before the step that would do it, with the minibatch by which it does."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import trainings
from support.off_policy import STEPS, small_dqn, small_sac
from support.tiny_tasks import MATCH, small_network, weights

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Grads, Hooks, Unstable
from graft.agents.training.divergence import PERIOD, DivergenceCheck
from graft.envs.core.task import Task

pytestmark = pytest.mark.usefixtures("tiny_tasks")

TRAINERS = {
    "ppo": lambda hooks: trainings.trained("sb3", hooks=hooks),
    "dqn": lambda hooks: small_dqn.trained(hooks=hooks),
    "sac": lambda hooks: small_sac.trained(hooks=hooks),
}


class Breaks:
    """A method whose fifth minibatch has one gradient of ``value``."""

    def __init__(self, value: float) -> None:
        self.value, self.seen = value, 0
        self.batch: Batch | None = None

    def __call__(self, grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        self.seen += 1
        if self.seen == 5:
            self.batch, self.network, self.before = batch, network, weights(network)
            next(iter(grads.values())).view(-1)[0] = self.value
        return grads


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_gradient_that_is_not_finite_is_not_stepped_and_its_minibatch_is_kept(name: str, value: float) -> None:
    breaks = Breaks(value)
    with pytest.raises(Unstable, match="a smaller learning rate") as caught:
        TRAINERS[name](Hooks(gradients=breaks))
    assert breaks.batch is not None
    np.testing.assert_array_equal(caught.value.batch["observations"], breaks.batch.observations.numpy())
    assert caught.value.env_steps
    after = weights(breaks.network)
    assert [n for n in after if not torch.equal(after[n], breaks.before[n])] == []
    assert {"ppo": "advantages", "dqn": "rewards", "sac": "rewards"}[name] in caught.value.batch


def test_a_weight_that_is_not_finite_is_found_before_the_next_rollout() -> None:
    """That of the value head, which no action depends on."""

    def schedule(network: PolicyNetwork, progress: float) -> None:
        if progress:
            with torch.no_grad():
                network.value.out.bias.fill_(math.nan)

    with pytest.raises(Unstable) as caught:
        trainings.trained("sb3", hooks=Hooks(schedule=schedule))
    assert caught.value.env_steps == 256


def test_an_infinite_loss_is_found_whose_gradients_are_finite() -> None:
    """Huber's, of DQN: its gradient is 1 however far off a value is."""
    with pytest.raises(Unstable, match="a loss is not a finite number") as caught:
        small_dqn.trained(task=Task("tiny/Match-v0", {"reward": math.inf}))
    assert np.isinf(caught.value.batch["rewards"]).any()


def test_critics_are_checked_before_their_step() -> None:
    """While the network itself is held, so that no step of its own would show it."""
    learner = small_sac.learner(small_sac.network())
    learner.critic_warmup = 1.0
    with torch.no_grad():
        next(learner.critic.q_networks[0].parameters()).view(-1)[0] = math.nan
    before = [parameter.clone() for parameter in learner.critic.q_networks[1].parameters()]
    with pytest.raises(Unstable, match="the norm of the gradients is not"):
        learner.learn(STEPS)
    after = list(learner.critic.q_networks[1].parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_on_a_gpu_the_right_minibatch_is_found_though_it_is_read_late() -> None:
    check, device = DivergenceCheck(), SimpleNamespace(type="cuda")
    reads: list[int] = []

    def norm(number: int) -> Any:
        value = math.nan if number >= 3 else 1.0
        return SimpleNamespace(device=device, item=lambda: reads.append(number) or value)

    def columns(number: int) -> Any:
        return lambda: {"number": torch.tensor(number)}

    for number in range(PERIOD - 1):
        check.see(norm(number), columns(number))
    assert reads == []
    with pytest.raises(Unstable) as caught:
        check.see(norm(PERIOD), columns(PERIOD))
    assert caught.value.batch == {"number": 3}
    check.see(norm(9), columns(9))
    with pytest.raises(Unstable) as caught:
        check.check_weights([torch.zeros(3)])
    assert caught.value.batch == {"number": 9}


def test_what_the_method_is_given_is_the_norm_before_clipping() -> None:
    """Sizes whose squares overflow: clipping would make them 0, and the training would stand still."""
    network = small_network(MATCH)

    def huge(grads: Grads, *_: Any) -> Grads:
        return {name: torch.full_like(grad, 1e30) for name, grad in grads.items()}

    with pytest.raises(Unstable):
        trainings.trained("sb3", network=network, hooks=Hooks(gradients=huge))
    assert all(tensor.abs().max() < 1e3 for tensor in weights(network).values())
