"""A transfer in segments: stages that each go on from where another one ended, perhaps with other options.

A segment is a transfer like any other, from the same source by the same method, but that its network, and what the
method remembers, are those of its *parent*'s end: a segment of the same member of a population, or of a better one.
What does not move along is the optimiser's state, which begins anew in every segment, of every member alike.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from agents.checkpoint import Checkpoint
from agents.network import NetworkConfig, PolicyNetwork
from envs.errors import GraftError
from envs.schema import Schemas
from experiments.graph import Stage
from experiments.store import Store
from experiments.tuning.plan import Plan
from experiments.tuning.work import ensure
from transfer.method import PART, Built, State, TransferMethod, label


@dataclass(frozen=True)
class Segment(Stage):
    """One piece of a transfer.

    Its ``budget`` is its own, and its ``repeat_index`` says which piece it is: so each has levels of its own, the same
    for all members.

    Attributes:
        parent: id of the segment that it goes on from; None for the first.
        begun: env steps of the pieces before it. whole: of all together; a method's schedule goes by these.
    """

    parent: str | None = None
    begun: int = 0
    whole: int = 1

    def to_json(self) -> dict[str, Any]:
        """As of a stage, and where it goes on from."""
        place = {"parent": self.parent, "begun": self.begun, "whole": self.whole}
        return {**super().to_json(), "segment": place}


def segment_of(stage: Stage, generation: int, parent: str | None, every: int) -> Segment:
    """Piece number ``generation``, 0 = the first, of a whole transfer."""
    given = {field.name: getattr(stage, field.name) for field in fields(Stage)}
    begun, whole = generation * every, stage.budget
    given |= {"repeat_index": generation, "budget": min(every, whole - begun)}
    if begun + every < whole:
        given["recall"] = ()  # what it keeps of its source is of interest in the end
    return Segment(**given, parent=parent, begun=begun, whole=whole)


def generations(budget: int, every: int) -> int:
    """Pieces of a transfer; the last one may be shorter."""
    return -(-budget // every)


def check(plan: Plan, every: int) -> None:
    """Raise GraftError where a transfer can't be trained in pieces of ``every`` env steps."""
    for run in plan.runs:
        stage = run.stage
        assert stage.method is not None
        if stage.method.overrides("finish"):
            raise GraftError(
                f"{label(stage.method)} makes another network of what it trained when training ends, so pbt can't go "
                f"on from there; use scheduler: asha."
            )
        if generations(stage.budget, every) < 2:
            raise GraftError(
                f"pbt compares members every {every:,} env steps, and a transfer has {stage.budget:,}; give a smaller "
                f"'every'."
            )


def train_segment(segment: Segment, store: Store) -> None:
    """Train it, unless it is done; its source and its parent are.

    Raises:
        Failed: it ended with an error.
    """
    if store.done(segment.id):
        return
    assert segment.method is not None
    parent = None if segment.parent is None else store.checkpoint(segment.parent)
    method = going_on(segment.method, parent, segment.begun / segment.whole, segment.budget / segment.whole)
    ensure(replace(segment, method=method), store)


def going_on(method: TransferMethod, parent: Checkpoint | None, begun: float, share: float) -> TransferMethod:
    """A method whose networks begin with the parent's weights, where there is one, and that remembers what it did.

    All that ``method`` does to a network beside its weights (what it freezes, rates of layers) it does anew. It goes by
    the same name and has the same options.

    Args:
        begun: share of the whole budget that was spent before. share: that this piece has.
    """
    kind = type(method)

    def build(
        self: TransferMethod, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int
    ) -> Built:
        built = kind.build(self, source, target, architecture, seed)
        if parent is not None:
            built.network.load_exactly(parent.tensors)
        return built

    def init(self: TransferMethod, network: PolicyNetwork, source: Checkpoint | None) -> State:
        state = kind.init(self, network, source)
        if parent is None:
            return state
        network.load_exactly(parent.tensors)
        return dict(parent.parts.get(PART, {}))

    def schedule(self: TransferMethod, network: PolicyNetwork, state: State, progress: float) -> State:
        return kind.schedule(self, network, state, begun + share * progress)

    changes: dict[str, Any] = {"build": build, "init": init}
    if method.overrides("schedule"):
        changes["schedule"] = schedule
    made: TransferMethod = type(f"{kind.__name__}GoingOn", (kind,), changes)(
        **{field.name: getattr(method, field.name) for field in fields(method)}
    )
    return made
