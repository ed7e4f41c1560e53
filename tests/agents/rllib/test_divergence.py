"""RLlib's learners check what they are about to step, after the method's change, as Stable-Baselines3's do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support import trainings
from support.tiny_tasks import MATCH, small_network, weights

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Grads, Hooks, Unstable

pytestmark = pytest.mark.usefixtures("tiny_tasks")


@pytest.mark.parametrize("value", [math.nan, 1e30])  # 1e30: finite, but the norm is not
def test_what_a_method_makes_infinite_is_not_stepped(value: float) -> None:
    network = small_network(MATCH)
    seen: list[Any] = []

    def breaks(grads: Grads, trained: PolicyNetwork, batch: Batch) -> Grads:
        seen.append((batch.observations.clone(), {n: p.clone() for n, p in trained.named_parameters()}, trained))
        return {n: torch.full_like(grad, value) for n, grad in grads.items()} if len(seen) == 2 else grads

    with pytest.raises(Unstable, match="the norm of the gradients is not a finite number") as caught:
        trainings.trained("rllib", network=network, hooks=Hooks(gradients=breaks))
    observations, before, trained = seen[-1]
    assert len(seen) == 2
    kept = [batch for name, batch in caught.value.batch.items() if name.endswith("/obs")]
    np.testing.assert_array_equal(kept[0], observations.numpy())
    after = weights(trained)
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
