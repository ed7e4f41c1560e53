"""Random frozen encoder: a control in which only the heads learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import Schemas
from graft.transfer.method import METHODS, Built, TransferMethod


@METHODS.register("random_frozen")
@dataclass(frozen=True, kw_only=True)
class RandomFrozen(TransferMethod):
    """A fresh encoder that stays as it is; the heads train, and statistics of observations go on.

    Source: Rusu et al. 2016, baseline 4.
    """

    uses_source: ClassVar[bool] = False
    provides: ClassVar[frozenset[str]] = frozenset({"control"})

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        network = PolicyNetwork(target, architecture, seed)
        network.encoder.freeze()
        network.encoder.hold_statistics(False)
        return Built(network, None)
