"""A population that is trained side by side: what each member's next segments are, and how it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from envs.errors import GraftError
from experiments.store import Store
from experiments.tuning.plan import METHOD_KEY, Plan, make_plan, running_score
from experiments.tuning.search import Pbt, Search
from experiments.tuning.segment import Segment, check, generations, segment_of, train_segment
from experiments.tuning.space import Scalar
from experiments.tuning.work import SCORE, STEPS, Failed, ensure


def _refusal(key: str) -> GraftError:
    return GraftError(
        f"pbt changes options while transfers are trained, so it can vary those of the algorithm and of methods only; "
        f"the space has {key}."
    )


@dataclass(frozen=True)
class Population:
    """What all members share.

    Attributes:
        plan: of the experiment as it is; every member's transfers start from its sources.
        every: env steps of a segment. whole: of a transfer.
    """

    search: Search
    plan: Plan
    every: int

    @classmethod
    def of(cls, search: Search, plan: Plan) -> Population:
        """With the scheduler's options.

        Raises:
            GraftError: a method can't be trained in segments, or there are fewer than two of them.
        """
        assert isinstance(search.scheduler, Pbt)
        for key in search.space:
            if key == "algorithm.name" or not (key.startswith("algorithm.") or METHOD_KEY.match(key)):
                raise _refusal(key)
        every = search.scheduler.every or -(-plan.runs[0].stage.budget // 5)
        check(plan, every)
        return cls(search, plan, every)

    @property
    def whole(self) -> int:
        """Env steps of a transfer."""
        return self.plan.runs[0].stage.budget

    @property
    def generations(self) -> int:
        """Segments of a transfer."""
        return generations(self.whole, self.every)

    def segments(self, values: Mapping[str, Scalar], generation: int, parents: Sequence[str] | None) -> list[Segment]:
        """A member's next segments, one for each run.

        Args:
            parents: ids of the segments that they go on from; None for the first generation.
        Raises:
            GraftError: ``values`` are not allowed, or change more than the options of algorithm and methods.
        """
        found = []
        for i, (run, varied) in enumerate(zip(self.plan.runs, self._varied(values), strict=True)):
            if replace(varied, algorithm=run.stage.algorithm, method=run.stage.method, source=run.stage.source) != (
                run.stage
            ):
                raise _refusal(", ".join(values))
            stage = replace(run.stage, algorithm=varied.algorithm, method=varied.method)
            found.append(segment_of(stage, generation, None if parents is None else parents[i], self.every))
        return found

    def _varied(self, values: Mapping[str, Scalar]) -> list[Any]:
        return [run.stage for run in make_plan(self.search, self.search.config(values)).runs]


@dataclass(frozen=True)
class Breeder:
    """Trains members of a population into one folder, in a worker."""

    out: Path
    population: Population

    def train(self, values: Mapping[str, Scalar], generation: int, parents: Sequence[str] | None) -> dict[str, Any]:
        """A member's next segments; returns its report, which says so where one has failed."""
        store, plan = Store(self.out), self.population.plan
        try:
            segments = self.population.segments(values, generation, parents)
            for run, segment in zip(plan.runs, segments, strict=True):
                for stage in plan.before(run):
                    ensure(stage, store)
                train_segment(segment, store)
        except (Failed, GraftError) as error:
            return {"failed": str(error), "values": dict(values), "done": True}
        trained = [replace(run, stage=segment) for run, segment in zip(plan.runs, segments, strict=True)]
        last = generation + 1 == self.population.generations
        return {
            STEPS: sum(segment.begun + segment.budget for segment in segments),
            SCORE: running_score("final", store, trained),
            "generation": generation,
            "values": dict(values),
            "stages": [segment.id for segment in segments],
            "parents": list(parents or ()),
            "finished": last,
            "done": last,
        }
