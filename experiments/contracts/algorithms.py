"""What every algorithm keeps: tests run it on both backends, ``graft check`` on anybody's algorithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Evaluation, Grads, Hooks
from graft.experiments.contracts.basics import assert_same, expect, weights

Train = Callable[..., Any]
"""Trains by the algorithm, under keywords ``network`` (else a fresh one), ``seed``, ``evaluation`` and ``hooks``; what
it returns has the ``network``, the ``result`` and ``records``, a list of (env steps, values)."""

Fresh = Callable[[], PolicyNetwork]
"""Makes a network for it."""


def it_trains_and_records(train: Train, fresh: Fresh) -> None:
    """The policy head moves, all weights stay finite, and evaluations are recorded in order, the first at 0."""
    network = fresh()
    before = weights(network)
    run = train(network=network)
    after = weights(run.network)
    moved = any(not torch.equal(before[n], after[n]) for n in before if n.startswith("policy."))
    expect(moved, "the policy head does not train; is the network trained in place?")
    expect(all(t.isfinite().all() for t in after.values()), "weights are not finite after training")
    steps = [env_steps for env_steps, values in run.records if "eval/return_mean" in values]
    expect(steps[:1] == [0] and steps == sorted(steps), f"evaluations are recorded at {steps}")
    expect(run.result.env_steps >= 1, "it counts no env steps")


def same_seed_same_weights(train: Train, fresh: Fresh) -> None:
    """The same seed gives the same weights bit for bit, another seed others."""
    first, again, other = (train(seed=seed) for seed in (5, 5, 6))
    assert_same(weights(first.network), weights(again.network))
    expect(first.result.final_returns == again.result.final_returns, "the same seed gives other final returns")
    same = torch.equal(first.network.policy.out.weight, other.network.policy.out.weight)
    expect(not same, "two seeds give the same weights")


def evaluations_do_not_change_the_training(train: Train, fresh: Fresh) -> None:
    """How often the network is evaluated does not change what it learns."""
    rare, often = (train(evaluation=Evaluation(every=e, episodes=8, num_envs=8)) for e in (10_000, 1))
    assert_same(weights(rare.network), weights(often.network))


def a_methods_gradients_are_used(train: Train, fresh: Fresh) -> None:
    """Gradients go through the transfer method, and those that it gives back are used."""
    calls = []

    def nothing(grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        calls.append(len(grads))
        return {name: torch.zeros_like(grad) for name, grad in grads.items()}

    run, plain = train(hooks=Hooks(gradients=nothing)), train()
    expect(calls, "it asks no method for gradients; its learner's first base is MethodGradients, or TransferLearner")
    same = torch.equal(run.network.policy.out.weight, plain.network.policy.out.weight)
    expect(not same, "it does not use the gradients that a method gives back")


def what_is_frozen_stays(train: Train, fresh: Fresh) -> None:
    """A frozen encoder keeps its weights."""
    network = fresh()
    network.encoder.freeze()
    before = weights(network)
    after = weights(train(network=network).network)
    other = [n for n in before if n.startswith("encoder.") and not torch.equal(before[n], after[n])]
    expect(not other, f"{', '.join(other[:3])} is frozen, and moved")


CONTRACTS: tuple[Callable[[Train, Fresh], None], ...] = (
    it_trains_and_records,
    same_seed_same_weights,
    evaluations_do_not_change_the_training,
    a_methods_gradients_are_used,
    what_is_frozen_stays,
)
