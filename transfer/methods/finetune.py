"""Fine-tuning: training starts from the source's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.rollouts import Rollouts
from graft.transfer.method import METHODS, Consolidated, FromSource, State, TaskPosition

ROUNDING = 1e-9
"""Added to a share of the budget, so that one reached exactly counts."""


@METHODS.register("finetune")
@dataclass(frozen=True, kw_only=True)
class Finetune(FromSource):
    """All of the source's weights train on; the heads are fresh or carried by action name.

    Attributes:
        head_warmup: share of the budget in which only the heads train.
        gradual_unfreeze: whether the encoder's blocks start frozen and unfreeze from the head down: of B blocks, one
            after each 1 / (B + 1) of the budget after ``head_warmup``.
        layer_decay: factor d of the learning rate per block below the heads: d for the last of B blocks, d^B for the
            first.
    Source: gradual unfreezing and discriminative learning rates as in Howard & Ruder 2018, section 3.3 and 3.2.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"reference"})

    head_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradual_unfreeze: bool = False
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0

    def words(self) -> frozenset[str]:
        """Blocks that unfreeze later must be the source's."""
        return super().words() | ({"needs_source_weights"} if self.unfreezes else set())

    @property
    def unfreezes(self) -> bool:
        """Whether blocks are frozen at first."""
        return self.head_warmup > 0 or self.gradual_unfreeze

    def overrides(self, hook: str) -> bool:
        """A schedule, and its end, only where blocks unfreeze."""
        return super().overrides(hook) and (self.unfreezes or hook not in ("schedule", "consolidate"))

    def frozen_blocks(self, blocks: int, progress: float) -> int:
        """How many of the encoder's blocks are frozen when ``progress`` of the budget, in [0, 1), is spent."""
        if progress < self.head_warmup:
            return blocks
        if not self.gradual_unfreeze:
            return 0
        spent = (progress - self.head_warmup) / (1 - self.head_warmup)
        return blocks - min(blocks, int(spent * (blocks + 1) + ROUNDING))

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """``frozen`` (int64), where blocks unfreeze: how many another method of a chain has frozen for good."""
        state = super().init(network, source)
        return {**state, "frozen": torch.tensor(network.encoder.frozen_blocks)} if self.unfreezes else state

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        """Freeze and unfreeze; not in retraining after `consolidate`."""
        if "frozen" not in state:
            return state
        encoder = network.encoder
        wanted = max(int(state["frozen"]), self.frozen_blocks(len(encoder.blocks), progress))
        if wanted != encoder.frozen_blocks:
            encoder.freeze(wanted)
        return state

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, where: TaskPosition
    ) -> Consolidated:
        return Consolidated(network, {name: t for name, t in state.items() if name != "frozen"})

    def rates(self, network: PolicyNetwork, state: State) -> Mapping[str, float]:
        if self.layer_decay == 1:
            return {}
        blocks = network.encoder.blocks
        return {
            f"encoder.blocks.{i}.{name}": self.layer_decay ** (len(blocks) - i)
            for i, block in enumerate(blocks)
            for name, _ in block.named_parameters()
        }
