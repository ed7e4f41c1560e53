"""CLEAR: rollouts of earlier tasks are replayed, learned from by V-trace, and imitated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from graft.agents.networks.policy_network import Outputs, PolicyNetwork
from graft.agents.training.algorithm import Count, NotNegative
from graft.agents.training.backend import Batch, Grads
from graft.agents.training.rollouts import Rollouts
from graft.transfer.divergence import added, gradient, kl
from graft.transfer.memory import DRAWS, Memory, Replayed, tasks
from graft.transfer.method import METHODS, State, Step
from graft.transfer.state import Tensors
from graft.transfer.vtrace import log_probability, taken_actions, vtrace

SMALLEST = 1e-8


@METHODS.register("clear")
@dataclass(frozen=True, kw_only=True)
class Clear(Memory):
    """Continual learning with experience and replay: adds the gradient of a loss on stored rollouts of earlier tasks.

    On a minibatch of ``batch`` states in unrolls, mean over steps or states:

        vtrace * [-A log pi(a|x) + value * (v - V(x))^2] + policy_cloning * KL(mu || pi)
        + value_cloning * (V(x) - V_then(x))^2

    where mu is the policy that acted, V_then its values, and targets v and advantages A are those of `vtrace` under the
    policy now, constant in the gradient. Encoder and heads are as in `Memory.divergence`, the value head like the
    policy head. With as many stored states as a minibatch of new ones has, it is the paper's half and half.

    Beside what `Memory` keeps, the state holds ``memory.<k>.taken`` (M, A), the actions, and ``rewards``, ``discounts``
    and ``values`` (unrolls, states of one). The last state of an unroll gives the value after it.

    What differs from the paper: new rollouts are learned from by the algorithm (PPO's clipped loss and GAE), not by
    V-trace; A is divided by its root mean square in each task of a minibatch, as PPO brings its advantages to one
    scale, where the paper clips rewards; no entropy bonus on stored states; the memory is filled at the end of a task,
    by its last policy, not all along. Under algorithms whose critics are not the network's (SAC, DQN) the policy is
    cloned, and nothing else.

    Attributes:
        vtrace: weight of V-trace's loss; 0 imitates only. value: weight of the values in it.
        policy_cloning, value_cloning: weights of the imitation.
        unroll: steps in a row that are stored and replayed together.
    Source: Rolnick et al. 2019, "Experience replay for continual learning", sections 3.1 and 3.2.
    """

    vtrace: NotNegative = 1.0
    value: NotNegative = 0.5
    policy_cloning: NotNegative = 0.01
    value_cloning: NotNegative = 0.005
    unroll: Count = 20

    provides: ClassVar[frozenset[str]] = Memory.provides | {"replays_rollouts"}
    conflicts: ClassVar[Mapping[str, str]] = {"replays_rollouts": "replays rollouts, as the other does"}
    stored_heads: ClassVar[tuple[str, ...]] = ("policy.", "value.")

    @property
    def unroll_states(self) -> int:
        return self.unroll + 1

    def chosen(self, rollouts: Rollouts, generator: torch.Generator) -> torch.Tensor:
        """Whole unrolls."""
        width = rollouts.unroll
        order = torch.randperm(len(rollouts.actions) // width, generator=generator)
        return _states(order[: max(1, self.memory // width)], width)

    def stored(self, network: PolicyNetwork, rollouts: Rollouts, chosen: torch.Tensor, outputs: Outputs) -> Tensors:
        stored = super().stored(network, rollouts, chosen, outputs)
        stored["taken"] = taken_actions(rollouts.actions[chosen], network.schemas.action).cpu()
        numbers = {"rewards": rollouts.rewards[chosen], "discounts": rollouts.discounts[chosen]}
        numbers["values"] = outputs.value
        return stored | {name: t.cpu().view(-1, rollouts.unroll) for name, t in numbers.items()}

    def rows(self, memory: Mapping[str, torch.Tensor], count: int, generator: torch.Generator) -> torch.Tensor:
        """Whole unrolls, at least one."""
        unrolls, width = memory["rewards"].shape
        return _states(torch.randint(unrolls, (max(1, count // width),), generator=generator), width)

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        """The loss is not reported as a penalty: with its constants it is not what the gradient is the slope of."""
        if not tasks(state):
            return Step(grads, state)
        loss, state = self.loss(network, state)
        return Step(added(grads, gradient(loss, network)), state)

    def loss(self, network: PolicyNetwork, state: State) -> tuple[torch.Tensor, State]:
        """The loss on the next minibatch, a scalar, and the state after the draw."""
        replayed, state = self.replay(network, state)
        distribution, total, states = network.config.distribution, torch.zeros(()), 0
        for part in replayed:
            divergence = kl(part.then, part.now, distribution, part.known, part.drawn.sizes)
            loss = self.policy_cloning * divergence.sum()
            if distribution is None:
                loss = loss + self._on_rollouts(part, state)
            total, states = total.to(loss) + loss, states + len(divergence)
        return total / states, {**state, DRAWS: state[DRAWS] + 1}

    def _on_rollouts(self, part: Replayed, state: State) -> torch.Tensor:
        """Of the unrolls of a task: what rewards and values are needed for, summed over their states."""
        drawn, now, then, known = part
        prefix, values = f"memory.{drawn.task}", now.value
        rewards, discounts, stored = (
            state[f"{prefix}.{name}"].flatten()[drawn.rows].to(values) for name in ("rewards", "discounts", "values")
        )
        taken = state[f"{prefix}.taken"][drawn.rows].to(values.device)
        if then.log_std is None:  # the network may play a box now, which the stored head did not
            now = now._replace(log_std=None)
        cloning = self.value_cloning * (values - stored).square().sum()
        if self.vtrace == 0:
            return cloning
        width = state[f"{prefix}.rewards"].shape[1]
        logp, told = log_probability(now, taken, known, drawn.sizes)
        before, _ = log_probability(_known_only(then, known), taken, known, drawn.sizes)
        ratios = (logp - before).detach().masked_fill(~told, -torch.inf)
        ratios, discounts, rewards, logp, values = (
            t.view(-1, width) for t in (ratios, discounts, rewards, logp, values)
        )
        fixed = values.detach()
        steps = slice(0, width - 1)
        targets, advantages = vtrace(
            ratios[:, steps], discounts[:, steps], rewards[:, steps], fixed[:, steps], fixed[:, -1]
        )
        scale = advantages.square().mean().sqrt() + SMALLEST
        policy_loss, value_loss = -advantages / scale * logp[:, steps], (targets - values[:, steps]).square()
        # The mean over steps, as those of the other terms are over states, of which an unroll has one more.
        return cloning + self.vtrace * width / (width - 1) * (policy_loss + self.value * value_loss).sum()


def _states(unrolls: torch.Tensor, width: int) -> torch.Tensor:
    """Indices of all states of unrolls that have ``width``."""
    return (unrolls.unsqueeze(1) * width + torch.arange(width)).flatten()


def _known_only(outputs: Outputs, known: torch.Tensor | None) -> Outputs:
    """A stored policy, which never takes an action that it did not know."""
    if known is None or outputs.log_std is not None:
        return outputs
    return outputs._replace(action=outputs.action.masked_fill(~known, torch.finfo(outputs.action.dtype).min))
