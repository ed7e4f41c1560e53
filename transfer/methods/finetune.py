"""Fine-tuning: the source's weights are where training starts."""

from __future__ import annotations

from dataclasses import dataclass

from transfer.method import METHODS, FromSource


@METHODS.register("finetune")
@dataclass(frozen=True, kw_only=True)
class Finetune(FromSource):
    """All of the source's weights train on; the heads are fresh or carried by action name."""
