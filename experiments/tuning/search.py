"""A search as its author writes it: an experiment, what is varied in it, and how trials are compared and stopped."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from envs.errors import GraftError, unknown
from envs.options import build_options
from experiments.config import (
    PACKAGED,
    Config,
    Strict,
    find_config,
    load_config,
    packaged_configs,
    read_yaml,
)
from experiments.options import parse_model
from experiments.tuning.space import Dimension, Scalar, parse_dimension, sample

SEARCHES = PACKAGED / "searches"

VARIED = ("algorithm", "methods", "network", "pretrain", "sources")
"""Parts of a config that a search may vary: those that leave alone what trials are compared on."""

METRICS = ("auc", "final", "balance")

ATTEMPTS = 100
"""To draw a trial that was not drawn before."""

Metric = Literal["auc", "final", "balance"]


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving: at every rung only the best 1 / ``reduction`` of the trials go on.

    Attributes:
        reduction: share that a rung keeps, and the ratio of two rungs' env steps.
        grace: env steps of a trial's transfers at the first rung; None for those of all its transfers divided by
            ``reduction`` twice.
    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning".
    """

    reduction: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    grace: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True)
class Pbt:
    """Population-based training: now and then the worst members go on from the best, with changed options.

    Attributes:
        every: env steps of each transfer between two comparisons; None for a fifth of its budget.
        quantile: share of the members that is replaced, and that they are replaced by.
        resample: how likely a changed option is drawn anew; else it is multiplied by 0.8 or 1.2, or is a neighbour in
            its list.
    Source: Jaderberg et al. 2017, "Population based training of neural networks".
    """

    every: Annotated[int, Field(ge=1)] | None = None
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    resample: Annotated[float, Field(ge=0, le=1)] = 0.25


@dataclass(frozen=True)
class Everything:
    """Every trial is trained to its end."""


SCHEDULERS: dict[str, type[Asha | Pbt | Everything]] = {"asha": Asha, "pbt": Pbt, "none": Everything}


def _named(given: Any) -> Any:
    """Lets a name stand for a scheduler without options."""
    return {"name": given} if isinstance(given, str) else given


class SearchFile(Strict):
    """What a search's file holds.

    ``overrides`` are changes to the experiment that all trials share; ``space`` is what they differ in, both by dotted
    key. ``trials`` counts the experiment as it is (but for `pbt`, where all members are drawn).
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    experiment: str
    overrides: dict[str, JsonValue] = Field({})
    space: Annotated[dict[str, Any], Field(min_length=1)]
    trials: Annotated[int, Field(ge=2, le=10_000)] = 12
    scheduler: Annotated[dict[str, Any], BeforeValidator(_named)] = Field({"name": "asha"})
    metric: Metric | None = Field(None, description="auc (default), final (default of pbt) or balance")
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Trial:
    """One setting of what is varied: its place among the trials, and what it changes in the experiment."""

    index: int
    values: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """First 8 hexadecimal digits of the sha256 of its values."""
        canonical = json.dumps(dict(self.values), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @property
    def words(self) -> str:
        """Its values, for people."""
        shown = ", ".join(f"{short(key)} {shown_value(value)}" for key, value in self.values.items())
        return shown or "the experiment as it is"


@dataclass(frozen=True)
class Search:
    """A search that was read and checked.

    Attributes:
        experiment: as it was given. path: the config's file.
        overrides: ``key=value``, shared by all trials.
    """

    name: str
    experiment: str
    path: Path
    overrides: tuple[str, ...]
    space: Mapping[str, Dimension]
    written: Mapping[str, Any]
    trials: int
    scheduler_name: str
    scheduler: Asha | Pbt | Everything
    metric: Metric
    seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """All that results depend on but the number of trials, which may grow (for pbt the population is one)."""
        options = vars(self.scheduler)
        members = {"trials": self.trials} if isinstance(self.scheduler, Pbt) else {}
        return {
            **members,
            "experiment": self.experiment,
            "overrides": list(self.overrides),
            "space": {key: self.written[key] for key in sorted(self.written)},
            "scheduler": {"name": self.scheduler_name, **options},
            "metric": self.metric,
            "seed": self.seed,
        }

    def config(self, values: Mapping[str, Scalar] | None = None) -> Config:
        """The experiment with these values.

        Raises:
            GraftError: as of `load_config`, or it is a sequence.
        """
        found = load_config(str(self.path), (*self.overrides, *overrides(values or {})))
        if not isinstance(found, Config):
            raise GraftError(f"{found.name} is a sequence of tasks; a search needs an experiment with targets.")
        return found

    def command(self, values: Mapping[str, Scalar]) -> str:
        """What trains a trial anew, with its controls."""
        words = ["python", "-m", "experiments.run", self.experiment, *self.overrides, *overrides(values)]
        return shlex.join(words)

    def sampled(self) -> list[Trial]:
        """The trials: the experiment as it is (not for pbt), then drawn ones, none of them twice.

        A small space may have fewer than were asked for.
        """
        drawn = [] if isinstance(self.scheduler, Pbt) else [Trial(0)]
        known = {trial.id for trial in drawn}
        for index in range(len(drawn), self.trials):
            for attempt in range(ATTEMPTS):
                trial = Trial(index, sample(self.space, self.seed, index, attempt))
                if trial.id not in known:
                    known.add(trial.id)
                    drawn.append(trial)
                    break
            else:
                break
        return drawn


def overrides(values: Mapping[str, Any]) -> list[str]:
    """``key=value`` as `load_config` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def short(key: str) -> str:
    """A key for tables: its last two words that are no numbers, without the name of a part of the config."""
    words = [part for part in key.split(".") if not part.isdigit()]
    return ".".join(words[-2:] if len(words) > 2 else words[-1:])


def shown_value(value: Scalar) -> str:
    """A value for tables."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def packaged_searches() -> list[str]:
    """Names of the searches that come with Graft."""
    return sorted(path.stem for path in SEARCHES.glob("*.yaml"))


def _find(given: str) -> Path:
    path = Path(given)
    packaged = SEARCHES / f"{path.stem}.yaml"
    if path.is_file():
        return path
    if given in (packaged.stem, packaged.name) and packaged.is_file():
        return packaged
    if given in packaged_configs():
        raise GraftError(
            f"{given} is an experiment, not a search; a search is a file with 'experiment: {given}' and a 'space:' of "
            f"what to vary, such as {{algorithm.learning_rate: {{log: [1e-4, 1e-2]}}}}."
        )
    raise unknown("search (neither a file nor a search that comes with Graft)", given, packaged_searches())


def _scheduler(given: Mapping[str, Any]) -> tuple[str, Asha | Pbt | Everything]:
    options = dict(given)
    name = str(options.pop("name", "asha"))
    if name not in SCHEDULERS:
        raise unknown("scheduler", name, SCHEDULERS)
    return name, build_options(f"scheduler {name}", SCHEDULERS[name], options)


def _metric(given: Metric | None, scheduler: str) -> Metric:
    metric: Metric = given or ("final" if scheduler == "pbt" else "auc")
    if scheduler == "pbt" and metric != "final":
        raise GraftError(f"pbt compares members by how they do now; metric: {metric} is not allowed, only final.")
    if scheduler == "asha" and metric == "balance":
        raise GraftError(
            "metric: balance is known when a transfer has ended, so asha can't stop by it; use scheduler: none."
        )
    return metric


def load_search(given: str, words: Sequence[str] = (), **changes: Any) -> Search:
    """Read a search.

    Args:
        given: a file, or the name of one that comes with Graft.
        words: ``key=value`` changes to the experiment, after those of the file.
        changes: entries of the file that are replaced, where they are not None.
    Raises:
        GraftError: anything that is not allowed, said in one sentence.
    """
    path = _find(given)
    data = read_yaml(path)
    named = data.get("scheduler")
    if isinstance(named, dict) and named.get("name") == changes.get("scheduler"):
        changes = {**changes, "scheduler": None}  # its options stay
    file = parse_model(SearchFile, data | {k: v for k, v in changes.items() if v is not None}, path.name)
    name, scheduler = _scheduler(file.scheduler)
    for key in file.space:
        if key.split(".")[0] not in VARIED:
            raise unknown(
                f"start of '{key}' in the space, as a part that a search may vary,", key.split(".")[0], VARIED
            )
    beside = path.parent / file.experiment
    return Search(
        name=file.name,
        experiment=str(beside) if beside.is_file() else file.experiment,
        path=(beside if beside.is_file() else find_config(file.experiment)).resolve(),
        overrides=(*overrides(file.overrides), *words),
        space={key: parse_dimension(key, dimension) for key, dimension in file.space.items()},
        written=file.space,
        trials=file.trials,
        scheduler_name=name,
        scheduler=scheduler,
        metric=_metric(file.metric, name),
        seed=file.seed,
    )
