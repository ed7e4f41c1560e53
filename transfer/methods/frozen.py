"""Frozen encoder: feature extraction with the source's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.training.algorithm import Count
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS, Built, FromSource


@METHODS.register("frozen")
@dataclass(frozen=True, kw_only=True)
class Frozen(FromSource):
    """The first ``depth`` blocks of the encoder keep the source's weights; the rest of the network trains.

    Attributes:
        depth: ``all``, or a number of blocks counted from the input.
    Source: feature extraction as in Yosinski et al. 2014; Rusu et al. 2016, baseline 2 with all blocks.
    """

    conflicts: ClassVar[Mapping[str, str]] = {"trains_again": "freezes what the other trains once more"}

    depth: Literal["all"] | Count = "all"

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """Raises as `FromSource.build`, and where a frozen block has a tensor of which nothing came from the source.

        New slices of the stem are frozen as ``new_channels`` made them; new parts of the observation stay unread.
        """
        built = super().build(source, target, architecture, seed)
        encoder = built.network.encoder
        encoder.freeze(None if self.depth == "all" else self.depth)
        assert built.report is not None
        frozen = tuple(f"encoder.blocks.{i}." for i in range(encoder.frozen_blocks))
        unread = tuple(f"encoder.{name}" for name in encoder.unread)
        for row in built.report.rows:
            if row.status == "initialised" and row.tensor.startswith(frozen) and not row.tensor.startswith(unread):
                raise GraftError(
                    f"Cannot freeze {row.tensor}: the source could not fill it ({row.detail}), and random weights "
                    f"would be frozen for good; choose a smaller depth, or finetune."
                )
        return built
