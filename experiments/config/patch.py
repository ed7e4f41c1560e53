"""The file of ``graft patch``: an agent, its old and new build, what is tried, and what must hold."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from graft.errors import GraftError
from graft.experiments.config.backends import DEFAULT as DEFAULT_BACKEND
from graft.experiments.config.experiment import (
    LIST_OF_METHODS,
    SEEDS,
    Finite,
    Strict,
    TaskSection,
    as_mapping,
    read_yaml,
)
from graft.experiments.config.options import parse_model

Comparison = Literal["<", "<=", ">", ">=", "==", "!="]

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
EVALUATIONS = 12
"""Of each training, besides the one before it."""


class Build(TaskSection):
    """A build of the game; without ``id`` the agent's own task, with these keyword arguments changed."""

    id: str | None = Field(None, description="id of the task; by default the agent's own")

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.policy_mapping is not None:
            raise ValueError("policy_mapping is for graft run; a patch is checked for one policy")
        return self


class Predicate(Strict):
    """What must hold in an episode: a comparison of one number. Of what is seen or told in every step, ``when``."""

    of: Literal["return", "length", "observation", "info"] = Field(description="which number")
    name: Text | None = Field(None, description="of the observation, or key of the info")
    compare: Comparison = Field(alias="is", description="how the number compares with value")
    value: Finite = Field(description="what it is compared with")
    when: Literal["always", "ever", "end"] = Field(
        "end", description="of observations and infos: in every step, in any, or in the last"
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        stepwise = self.of in ("observation", "info")
        if stepwise is not (self.name is not None):
            raise ValueError(
                "a predicate on an observation or an info says its name, one on the return or the length none"
            )
        if not stepwise and "when" in self.model_fields_set:
            raise ValueError("when is for observations and infos; an episode has one return and one length")
        return self

    def holds(self, number: Any) -> Any:
        """Whether it holds of a number, or of each in an array; nothing holds of what is not a number."""
        return COMPARISONS[self.compare](number, self.value) & (number == number)

    def __str__(self) -> str:
        what = self.of if self.name is None else f"{self.of} {self.name}"
        when = "" if self.name is None else {"always": " always", "ever": " ever", "end": " at the end"}[self.when]
        return f"{what} {self.compare} {self.value:g}{when}"


Episodes = Annotated[int, Field(ge=1, le=10_000)]


def _measure(given: Any) -> Any:
    """No predicate for the mean return."""
    if isinstance(given, str) and given != "return_mean":
        raise ValueError("give return_mean, or a predicate: {of: return, is: '>=', value: 10}")
    return None if given == "return_mean" else given


Measure = Annotated[
    Predicate | None, BeforeValidator(_measure, json_schema_input_type=Literal["return_mean"] | Predicate)
]


class Scenario(Strict):
    """A check of the agent as it is, before any training: on episodes of a fixed seed, a mean return or a share."""

    name: Text = Field(description="for the report")
    on: Literal["old", "new"] = Field("new", description="which build is played")
    kwargs: dict[str, JsonValue] = Field({}, description="changes to that build's keyword arguments")
    episodes: Episodes = Field(64, description="how many are played, rounded up to whole batches of 32")
    seed: Annotated[int, Field(ge=0, lt=2**30)] = Field(0, description="of levels and actions")
    deterministic: bool = Field(False, description="play the most likely action instead of a sample")
    measure: Measure = Field(
        None, description="the mean return (return_mean, the default), or the share of episodes in which this holds"
    )
    least: Finite | None = Field(None, alias="min", description="what must be reached")
    most: Finite | None = Field(None, alias="max", description="what must not be exceeded")

    @model_validator(mode="before")
    @classmethod
    def _on(cls, data: Any) -> Any:
        """YAML 1.1 takes the key ``on`` for true."""
        return {"on" if key is True else key: value for key, value in data.items()} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("a scenario needs min or max, or it could not fail")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError("min of a scenario is above its max, which nothing can pass")
        if self.measure is not None:
            low, high = 0 if self.least is None else self.least, 1 if self.most is None else self.most
            if not (0 <= low <= 1 and 0 <= high <= 1):
                raise ValueError("min and max of a predicate are shares of episodes; give numbers from 0 to 1")
            if (low, high) == (0, 1):
                raise ValueError("every share is from 0 to 1; give a min above 0 or a max below 1")
        return self


class Gate(Strict):
    """One thing that must hold for exit code 0; all numbers are shares of the score on the old build."""

    zero_shot: Share | None = Field(None, description="least share that the agent has on the new build, untrained")
    recovered: Share | None = Field(None, description="share that training must bring back, to stay there")
    within_steps: Annotated[int, Field(ge=0)] | None = Field(
        None, description="of recovered: env steps in which it must; by default all"
    )
    forgotten: Share | None = Field(None, description="most that may be lost on the old build after training")
    method: Text | None = Field(None, description="which method must do it; by default the first of methods")

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        kinds = [kind for kind in ("zero_shot", "recovered", "forgotten") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError("a gate is one of zero_shot, recovered and forgotten, each with a number")
        if self.within_steps is not None and kinds != ["recovered"]:
            raise ValueError("within_steps is for the gate recovered")
        if self.method is not None and kinds == ["zero_shot"]:
            raise ValueError("method is for the gates recovered and forgotten; zero_shot is before any training")
        return self

    @property
    def trained(self) -> bool:
        """Whether it is about training."""
        return self.zero_shot is None


class PatchConfig(Strict):
    """What a patch did to an agent, by how much training it comes back, and what must hold."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")] = Field(
        "patch", description="of the check and its folder; by default the file's"
    )
    agent: Path = Field(description="folder of its checkpoint, or of the checkpoint's stage")
    old: Build = Field(
        Build.model_validate({}), description="the build that the agent knows; by default the task of its checkpoint"
    )
    new: Annotated[Build, as_mapping("id", Build)] = Field(description="the build after the patch")
    methods: LIST_OF_METHODS = Field(
        ["auto"], description="how the agent is trained on the new build; controls run unasked"
    )
    steps: Annotated[int, Field(ge=0)] = Field(60_000, description="env steps of each training; 0 trains nothing")
    recover: Share = Field(0.95, description="share of the old score that counts as recovered")
    episodes: Episodes = Field(64, description="on old and new before training, and on old after it, for every seed")
    seeds: SEEDS = Field([0, 1, 2], description="how many trainings, or a list of seeds")
    algorithm: Annotated[dict[str, Any], as_mapping("name", dict[str, Any])] = Field(
        {}, description="as of graft run; by default the one that trained the agent, else ppo"
    )
    backend: str = Field(DEFAULT_BACKEND, description="who trains: sb3 or rllib")
    evaluation: dict[str, Any] = Field({}, description="as of graft run; by default 12 in each training")
    gates: list[Gate] = Field([], description="what must hold, besides the scenarios")
    scenarios: list[Scenario] = Field([], description="checks of the agent before any training")

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = Counter(scenario.name for scenario in self.scenarios)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"scenario '{twice[0]}' is listed twice; give each a name of its own")
        if self.steps == 0 and any(gate.trained for gate in self.gates):
            raise ValueError("steps 0 trains nothing, and gates ask what training does; give steps, or leave them out")
        late = next((g for g in self.gates if g.within_steps is not None and g.within_steps > self.steps), None)
        if late is not None:
            raise ValueError(f"within_steps {late.within_steps} is beyond steps, {self.steps}; train for longer")
        return self


def load_patch(path: Path) -> PatchConfig:
    """Read a file of ``graft patch``; raises GraftError where it is none."""
    if not path.is_file():
        raise GraftError(f"There is no file {path}; give a YAML file with agent and new.")
    data: Mapping[str, Any] = read_yaml(path)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip(".-") or "patch"
    return parse_model(PatchConfig, {"name": name, **data}, path.name)
