"""Scratch: a fresh network; the control that every transfer is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.transfer.method import METHODS, Built, TransferMethod


@METHODS.register("scratch")
@dataclass(frozen=True, kw_only=True)
class Scratch(TransferMethod):
    """Everything fresh, everything trains."""

    uses_source: ClassVar[bool] = False
    control: ClassVar[bool] = True
    baseline: ClassVar[bool] = True

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """A fresh network."""
        return Built(PolicyNetwork(target, architecture, seed), None)
