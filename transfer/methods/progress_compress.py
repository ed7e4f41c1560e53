"""Progress & compress: a fresh column learns the task, and is distilled into a knowledge base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, Outputs, PolicyNetwork
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.agents.training.algorithm import NotNegative, Positive, Share
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.divergence import evaluating, kl, policy_outputs, rows_of
from graft.transfer.fisher import diagonal_fisher
from graft.transfer.method import METHODS, Built, Consolidated, State, TaskPosition
from graft.transfer.methods.progressive import Progressive
from graft.transfer.regulariser import normalised
from graft.transfer.state import Tensors, group, named, without
from graft.transfer.transplant import carried

MINIBATCH = 256
STREAM = 0xC0135
"""Seeds the new heads and the order of the minibatches, with the task's index added."""

OMEGA = "omega"


@METHODS.register("progress_compress")
@dataclass(frozen=True, kw_only=True)
class ProgressCompress(Progressive):
    """An active column with laterals to the knowledge base; at a task's end it is distilled into the base.

    Progress: the base is frozen, a fresh column trains (`ProgressiveNetwork`). Compress: Adam minimises, over the
    parameters of the base's encoder and of fresh heads for the task,

        mean over states of [KL(active || base) + value * (V_base - V_active)^2 / 2]
        + (strength / 2) * sum_i omega_i * (theta_i - anchor_i)^2,

    with the anchor at the base as it was. Then omega <- gamma * omega + omega_new, where omega_new is the base's
    diagonal Fisher information on the task, of mean 1. Only the encoder is held: every task has heads of its own.

    The state: ``omega.<parameter of the base>``, ``raw``, the latest Fisher information's mean, and ``compressed``, the
    number of tasks in the base.

    Attributes:
        strength: of the penalty. gamma: what is left of older importances when a task is added.
        compress_steps: minibatches of 256 states, by which the base comes to play what the active column plays.
            learning_rate: of their Adam. value: weight of the values.
    Source: Schwarz et al. 2018, "Progress & Compress". The paper's factor gamma on the penalty is part of ``strength``;
        the base's value head is distilled as well, since the next column's laterals read it.
    """

    strength: NotNegative = 10.0
    gamma: Share = 0.95
    compress_steps: Annotated[int, Field(ge=0)] = 4000
    learning_rate: Positive = 1e-3
    value: NotNegative = 0.5

    states: ClassVar[int] = 2048
    provides: ClassVar[frozenset[str]] = Progressive.provides | {"needs_source_weights", "remembers_tasks"}

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """Raises as `Progressive.build`, and where the source has several columns."""
        built = super().build(source, target, architecture, seed)
        assert isinstance(built.network, ProgressiveNetwork)
        if isinstance(built.network.earlier, ProgressiveNetwork):
            raise GraftError(
                f"The knowledge base is a plain network, and this source has {len(built.network.columns) - 1} "
                f"columns; choose a source of one column, or the method progressive."
            )
        return built

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """The source's state, its importances moved to the target's observations by name."""
        state = dict(super().init(network, source))
        omega = group(state, OMEGA)
        if source is None or not omega:
            return state
        moved = carried(source, omega, network.schemas, new_channels=self.new_channels, rename=self.rename)
        return without(state, OMEGA) | named(OMEGA, moved)

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        """The knowledge base with the task in it, as a plain network, and its importances with the task's added."""
        base = network
        if isinstance(network, ProgressiveNetwork):
            base = self._compressed(network, group(state, OMEGA), rollouts.observations, where)
        held = [name for name, _ in base.named_parameters() if name.startswith("encoder.")]
        new, raw = normalised(diagonal_fisher(base, rollouts.observations, held))
        old = group(state, OMEGA)
        omega = {name: t + self.gamma * old[name].to(t) if name in old else t for name, t in new.items()}
        return Consolidated(base, {**named(OMEGA, omega), "raw": raw, "compressed": torch.tensor(where.task + 1)})

    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        """The knowledge base for the tasks that are in it, the active column for the one that is being learned."""
        if isinstance(network, ProgressiveNetwork) and task < int(state.get("compressed", torch.tensor(1))):
            return network.earlier
        return network

    def _compressed(
        self, network: ProgressiveNetwork, omega: Tensors, observations: torch.Tensor, where: TaskPosition
    ) -> PolicyNetwork:
        """The knowledge base after the compress phase, with heads for the task that ends."""
        device = network.policy.out.weight.device
        observations = observations.to(device)
        config = replace(network.earlier.config, distribution=network.config.distribution)
        base = PolicyNetwork(network.schemas, config, STREAM + where.task)
        base.encoder.load_state_dict(network.earlier.encoder.state_dict())
        base.to(device)
        anchor = {name: p.detach().clone() for name, p in base.named_parameters() if name in omega}
        generator = torch.Generator().manual_seed(STREAM + where.task)
        optimiser = torch.optim.Adam(base.parameters(), lr=self.learning_rate)
        teacher, order = policy_outputs(network, observations), torch.zeros(0, dtype=torch.long)
        with evaluating(base):  # normalisation statistics are those of the earlier tasks
            for _ in range(self.compress_steps):
                if len(order) == 0:
                    order = torch.randperm(len(observations), generator=generator)
                rows, order = order[:MINIBATCH].to(device), order[MINIBATCH:]
                optimiser.zero_grad()
                self._distance(teacher, base, observations, rows).backward()  # type: ignore[no-untyped-call]
                for name, parameter in base.named_parameters():
                    if name in anchor and parameter.grad is not None:
                        parameter.grad += self.pull(parameter.detach(), anchor[name], omega[name])
                optimiser.step()
        return base

    def pull(self, parameter: torch.Tensor, anchor: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
        """Gradient of the penalty for one tensor; all of its shape."""
        return omega.to(parameter) * (parameter - anchor) * self.strength

    def _distance(
        self, teacher: Outputs, base: PolicyNetwork, observations: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """The loss of compressing without the penalty, on the states of these indices; a scalar."""
        active = rows_of(teacher, rows)
        student: Outputs = base(observations[rows])
        values = (student.value - active.value).square() / 2
        policies = kl(active, student, base.config.distribution, sizes=base.schemas.action.sizes)
        return (policies + self.value * values).mean()
