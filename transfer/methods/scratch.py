"""Scratch: training from a fresh network, the baseline of all comparisons."""

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
    provides: ClassVar[frozenset[str]] = frozenset({"control", "baseline"})

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        return Built(PolicyNetwork(target, architecture, seed), None)
