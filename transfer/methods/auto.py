"""Auto: of several methods, and scratch, the one that a short race on the target favours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS, Built, TransferMethod, label, parse_method
from graft.transfer.methods.finetune import Finetune
from graft.transfer.methods.scratch import Scratch


def _parsed(entries: Any) -> Any:
    return tuple(map(parse_method, entries)) if isinstance(entries, list | tuple) else entries


@METHODS.register("auto")
@dataclass(frozen=True, kw_only=True)
class Auto(TransferMethod):
    """The candidate, or scratch, that a race by successive halving favours; it takes the budget that the race leaves.

    What goes on is clearly better than scratch that trained as long. Whether scratch overtakes it later is not seen.
    Only a stage of a transfer holds the race: elsewhere this is its first candidate that fits.

    Attributes:
        candidates: methods that start from the source; of equal ones the first is taken. Scratch is always one more.
        share: of the target's env steps, what may at most go to the training of what is not kept. The episodes by
            which candidates are compared come on top, and are in the stage's record.
    Raises:
        GraftError: a candidate that uses no source, or that has to see the source's task again.
    Source: Jamieson & Talwalkar 2016, algorithm 1, for the race (`transfer/advice.py`).
    """

    provides: ClassVar[frozenset[str]] = frozenset({"races"})

    candidates: Annotated[tuple[TransferMethod, ...], BeforeValidator(_parsed), Field(min_length=1)] = (
        Finetune(heads="by_name"),
        Finetune(heads="fresh"),
    )
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.15

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", _parsed(self.candidates))
        super().__post_init__()
        for one in self.candidates:
            if not one.uses_source or isinstance(one, Auto):
                raise GraftError(f"auto: {label(one)} is no candidate; list methods that use a source.")
            if one.watches_source or one.overrides("consolidate") or one.retraining:
                raise GraftError(
                    f"auto: {label(one)} has a part of its own on the source's task or after the target's, for which "
                    f"a race has no place; leave it out, or run it beside auto."
                )

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        assert source is not None, "a method that uses a source is always given one"
        built, refused = self._tried(source, target, architecture, seed)
        if not built:
            raise GraftError("; ".join(f"{name}: {why}" for name, why in refused.items()))
        return next(iter(built.values()))

    def entrants(
        self, source: Checkpoint, target: Schemas, architecture: NetworkConfig
    ) -> tuple[dict[str, TransferMethod], dict[str, str]]:
        """By label, the candidates that fit source and target, then scratch; and why the others do not, in words."""
        built, refused = self._tried(source, target, architecture, 0)
        all_of_them = (*self.candidates, Scratch())
        return {label(one): one for one in all_of_them if not one.uses_source or label(one) in built}, refused

    def _tried(
        self, source: Checkpoint, target: Schemas, architecture: NetworkConfig, seed: int
    ) -> tuple[dict[str, Built], dict[str, str]]:
        built, refused = dict[str, Built](), dict[str, str]()
        for one in self.candidates:
            try:
                built[label(one)] = one.build(source, target, architecture, seed)
            except GraftError as error:
                refused[label(one)] = str(error)
        return built, refused
