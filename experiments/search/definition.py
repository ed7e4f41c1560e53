"""Search files: an experiment, a space of options, and how trials are compared and stopped."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BeforeValidator, Field, JsonValue

from graft.envs.core.options import build_options
from graft.errors import GraftError, unknown
from graft.experiments.config.experiment import Config, Strict, load_config, read_yaml
from graft.experiments.config.options import parse_model
from graft.experiments.config.packaged import PACKAGED, find_config, packaged_configs

SEARCHES = PACKAGED / "searches"

VARIED = ("algorithm", "methods", "network", "pretrain", "sources")
"""Parts of a config that a search may vary; the others define what trials are compared on."""

KINDS = {"uniform": (False, False), "log": (False, True), "integer": (True, False), "log_integer": (True, True)}
"""Kinds of ranges, as a config names them: whether of whole numbers, and whether uniform in their logarithm."""

DIGITS = 4
"""Significant digits of sampled numbers, so that a command that repeats a trial can be read."""

Metric = Literal["auc", "final", "balance"]
Scalar = bool | int | float | str | None
Dimension = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving: at every rung only the best 1 / ``reduction`` of the trials go on.

    Attributes:
        reduction: share that a rung keeps, and the ratio of two rungs' env steps.
        grace: env steps of a trial's transfers at the first rung; None for those of all its transfers divided by
            ``reduction`` twice.
    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning".
    """

    reduction: Annotated[int, Field(ge=2)] = 3
    grace: Annotated[int, Field(ge=1)] | None = None


class SearchFile(Strict):
    """A search's file: ``overrides`` are changes to the experiment that all trials share, ``space`` the options that
    they vary, both by dotted key; ``trials`` counts the unchanged experiment.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    experiment: str
    overrides: dict[str, JsonValue] = Field({})
    space: Annotated[dict[str, Any], Field(min_length=1)]
    trials: Annotated[int, Field(ge=2, le=10_000)] = 12
    scheduler: Annotated[
        dict[str, Any], BeforeValidator(lambda given: {"name": given} if isinstance(given, str) else given)
    ] = Field({"name": "asha"})
    metric: Metric = "auc"
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Search:
    """A checked search.

    Attributes:
        experiment: as it was given. path: the config's file.
        overrides: ``key=value``, shared by all trials.
        written: the space as in the file. scheduler: None trains every trial to its end.
    """

    name: str
    experiment: str
    path: Path
    overrides: tuple[str, ...]
    space: Mapping[str, Dimension]
    written: Mapping[str, Any]
    trials: int
    scheduler: Asha | None
    metric: Metric
    seed: int

    @property
    def scheduler_name(self) -> str:
        """Its name as a search file gives it."""
        return "asha" if self.scheduler else "none"

    @property
    def identity(self) -> dict[str, Any]:
        """What results depend on, without the number of trials, which may grow; plain JSON values."""
        return {
            "experiment": self.experiment,
            "overrides": list(self.overrides),
            "space": {key: self.written[key] for key in sorted(self.written)},
            "scheduler": {"name": self.scheduler_name} | (asdict(self.scheduler) if self.scheduler else {}),
            "metric": self.metric,
            "seed": self.seed,
        }

    def config(self, values: Mapping[str, Scalar] | None = None) -> Config:
        """The experiment with these values; raises GraftError where they are not allowed, or it is a sequence."""
        config = load_config(str(self.path), (*self.overrides, *overrides(values or {})))
        if not isinstance(config, Config):
            raise GraftError(f"{config.name} is a sequence of tasks; a search needs an experiment with targets.")
        if config.transfer.steps == 0:
            raise GraftError(f"{config.name} has transfer.steps 0, which trains nothing; a search needs 1 or more.")
        return config

    def command(self, values: Mapping[str, Scalar]) -> str:
        """The command that trains a trial again, with its controls."""
        return shlex.join(["graft", "run", self.experiment, *self.overrides, *overrides(values)])

    def rounded(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Sampled values as they are used: fractions with `DIGITS` digits, within their range."""
        used: dict[str, Scalar] = {}
        for key, value in params.items():
            if isinstance(dimension := self.space[key], FloatDistribution):
                assert isinstance(value, float)
                value = min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)
            used[key] = value
        return used

    def extremes(self) -> list[dict[str, Scalar]]:
        """Every choice and both ends of every range, one value at a time, to be checked before training."""
        return [
            {key: value}
            for key, dimension in self.space.items()
            for value in (
                dimension.choices if isinstance(dimension, CategoricalDistribution) else (dimension.low, dimension.high)
            )
        ]


def parse_dimension(key: str, given: Any) -> Dimension:
    """Optuna's distribution of a list of choices or of ``{KIND: [low, high]}``; raises GraftError for anything else."""
    where = f"space: '{key}'"
    if isinstance(given, list):
        plain = all(value is None or isinstance(value, bool | int | float | str) for value in given)
        if len(given) < 2 or not plain or len({repr(value) for value in given}) < len(given):
            raise GraftError(f"{where} is {given!r}; a list of choices has two different numbers or words, or more.")
        return CategoricalDistribution(given)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise GraftError(f"{where} is {given!r}; give a list of choices, or one range such as {{log: [1e-4, 1e-2]}}.")
    kind, bounds = next(iter(given.items()))
    if kind not in KINDS:
        raise unknown(f"kind of range of '{key}'", str(kind), KINDS)
    numbers = isinstance(bounds, list) and len(bounds) == 2
    if not numbers or any(isinstance(b, bool) or not isinstance(b, int | float) for b in bounds):
        raise GraftError(f"{where} has the bounds {bounds!r}; give two numbers, such as {kind}: [1, 100].")
    low, high = bounds
    whole, log = KINDS[kind]
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise GraftError(f"{where} has the bounds {low:g} and {high:g}; give finite numbers, the lower one first.")
    if log and low <= 0:
        raise GraftError(f"{where} begins at {low:g}, which has no logarithm; begin above 0, or use uniform.")
    if not whole:
        return FloatDistribution(low, high, log=log)
    if low != int(low) or high != int(high):
        raise GraftError(f"{where} has the bounds {low:g} and {high:g}; those of whole numbers are whole.")
    return IntDistribution(int(low), int(high), log=log)


def overrides(values: Mapping[str, Any]) -> list[str]:
    """``key=value`` as `load_config` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def short(key: str) -> str:
    """A key for tables: its last two words that are no numbers, without the name of a part of the config."""
    words = [part for part in key.split(".") if not part.isdigit()]
    return ".".join(words[-2:] if len(words) > 2 else words[-1:])


def shown(value: Scalar) -> str:
    """A value for tables."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def in_words(values: Mapping[str, Scalar]) -> str:
    """A trial's values in a line."""
    return ", ".join(f"{short(key)} {shown(value)}" for key, value in values.items()) or "the experiment as it is"


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
    names = sorted(path.stem for path in SEARCHES.glob("*.yaml"))
    raise unknown("search (neither a file nor a search that comes with Graft)", given, names)


def _scheduler(given: Mapping[str, Any], metric: Metric) -> Asha | None:
    options = dict(given)
    name = str(options.pop("name", "asha"))
    if name == "pbt":
        raise GraftError(
            "scheduler: pbt (population-based training) is not offered any more; use scheduler: asha, which stops the "
            "worse trials early, or none, which trains every trial to its end."
        )
    if name == "none":
        if options:
            raise unknown("option of scheduler none", next(iter(options)), ())
        return None
    if name != "asha":
        raise unknown("scheduler", name, ("asha", "none"))
    if metric == "balance":
        raise GraftError(
            "metric: balance is known when a transfer has ended, so asha can't stop by it; use scheduler: none."
        )
    return build_options("scheduler asha", Asha, options)


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
    scheduler = _scheduler(file.scheduler, file.metric)
    for key in file.space:
        if (start := key.split(".")[0]) not in VARIED:
            raise unknown(f"start of '{key}' in the space, as a part that a search may vary,", start, VARIED)
    sibling = path.parent / file.experiment
    return Search(
        name=file.name,
        experiment=str(sibling) if sibling.is_file() else file.experiment,
        path=(sibling if sibling.is_file() else find_config(file.experiment)).resolve(),
        overrides=(*overrides(file.overrides), *words),
        space={key: parse_dimension(key, dimension) for key, dimension in file.space.items()},
        written=file.space,
        trials=file.trials,
        scheduler=scheduler,
        metric=file.metric,
        seed=file.seed,
    )
