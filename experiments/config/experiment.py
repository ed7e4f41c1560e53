"""Experiment configs: strict YAML, overridden on the command line by ``dotted.key=value``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from graft.envs.builtin.old_views import DEFAULTS, with_view
from graft.envs.core.naming import KEYWORD, LIKE, NAMES, SCHEMAS
from graft.envs.core.options import build_options
from graft.envs.core.task import Bounds, Task
from graft.envs.core.wrappers import WRAPPERS
from graft.envs.core.yaml_text import LARGEST, parse_yaml
from graft.envs.factory import bounds
from graft.errors import GraftError, nearest, printable, shown
from graft.experiments.config.backends import DEFAULT as DEFAULT_BACKEND
from graft.experiments.config.backends import backend, parse_resources
from graft.experiments.config.options import parse_model
from graft.experiments.config.packaged import find_config
from graft.experiments.config.teams import Squad

if TYPE_CHECKING:  # torch takes seconds to load, and a config with a misspelt key does not need it
    from graft.agents.networks.policy_network import NetworkConfig
    from graft.agents.training.algorithm import Algorithm
    from graft.agents.training.backend import Evaluation, Resources
    from graft.transfer.method import TransferMethod

MOST_SEEDS = 1000
GIVEN = "given in the config"
"""How bounds were obtained that an experiment's author set."""


class Strict(BaseModel):
    """A model that refuses keys it does not know, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_mapping(key: str, of: Any) -> BeforeValidator:
    """Lets ``name`` stand for ``{key: name}``; ``of``: the type, for the JSON schema."""
    return BeforeValidator(
        lambda given: {key: given} if isinstance(given, str) else given, json_schema_input_type=str | of
    )


def _list(entry: Any) -> BeforeValidator:
    """Lets one entry, of this type, stand for a list of one."""
    return BeforeValidator(
        lambda given: [given] if isinstance(given, str | dict) else given, json_schema_input_type=entry | list[entry]
    )


Named = str | dict[str, Any]
"""A name, or ``name: {option: value}``."""

LIST_OF_METHODS = Annotated[list[Any], _list(Named), Field(min_length=1)]


def _seeds(given: Any) -> Any:
    """A number n stands for the seeds 0 to n - 1."""
    if isinstance(given, int | float):
        if isinstance(given, bool) or not 1 <= given <= MOST_SEEDS or given != int(given):
            raise ValueError(f"give a number of seeds from 1 to {MOST_SEEDS}, or a list of seeds")
        return list(range(int(given)))
    if isinstance(given, list) and len(given) > MOST_SEEDS:
        raise ValueError(f"{len(given):,} seeds are too many; give at most {MOST_SEEDS}")
    twice = [seed for seed in given if given.count(seed) > 1] if isinstance(given, list) else []
    if twice:
        raise ValueError(f"seed {twice[0]} is listed twice; list every seed once, or give a number of seeds")
    return given


SEEDS = Annotated[
    list[Annotated[int, Field(ge=0)]],
    BeforeValidator(_seeds, json_schema_input_type=int | list[int]),
    Field(min_length=1),
]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Recalled(Strict):
    """A task to evaluate a network on."""

    id: str = Field(description="id of the task")
    kwargs: dict[str, JsonValue] = Field({}, description="its keyword arguments")


Licence = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+ ()-]{1,200}$")]
"""An SPDX licence expression, such as ``CC-BY-4.0`` or ``Apache-2.0 OR MIT``."""


PolicyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class TaskSection(Strict):
    """A task and, for squads whose teams all learn, the policy of each team.

    ``kwargs: {team: ...}`` names the team whose policy is pretrained or transferred.
    """

    id: str | None = Field(None, description="id of the task to pretrain on")
    kwargs: dict[str, JsonValue] = Field({}, description="its keyword arguments")
    names: dict[str, JsonValue] = Field(
        {},
        alias="schema",
        description="names of its observations and actions; of a target, as: source takes the source's, and as: ID "
        "those of any task that looks the same",
    )
    wrappers: Annotated[list[JsonValue], _list(Named)] = Field(
        [],
        description="Gymnasium wrappers around its environments, the innermost first: a name or module:Class, or "
        "name: {argument: value}",
    )
    policy_mapping: dict[str, PolicyName] | None = Field(
        None, description="team -> policy, where all teams of a squad learn (backend: rllib)"
    )
    share_encoder: bool = Field(False, description="whether the policies of policy_mapping have one encoder")
    bounds: tuple[Finite, Finite] | None = Field(
        None, description="mean returns of a random policy and of an expert, for the normalised score"
    )

    @model_validator(mode="after")
    def _random_below_expert(self) -> Self:
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            raise ValueError("bounds are the random policy's mean return, then the expert's, which is higher")
        return self

    @model_validator(mode="after")
    def _shared_among_several(self) -> Self:
        if self.share_encoder and self.policy_mapping is None:
            raise ValueError("share_encoder is for policies that learn together; give policy_mapping: {team: policy}")
        return self

    @property
    def squad(self) -> Squad | None:
        """Policies of the teams; None where one policy learns."""
        return None if self.policy_mapping is None else Squad(self.policy_mapping, self.share_encoder)

    @property
    def task(self) -> Task:
        """The task, of a section that has an id."""
        return self._named(str(self.id), self.kwargs)

    def scale_of(self, task: Task) -> Bounds | None:
        """Bounds given here, else the registered ones of ``task``, else None."""
        return Bounds(*self.bounds, GIVEN) if self.bounds is not None else bounds(task)

    def _named(self, task_id: str, kwargs: dict[str, JsonValue]) -> Task:
        return Task(task_id, kwargs | self._keywords())

    def _keywords(self) -> dict[str, Any]:
        """Keywords of the task that have keys of their own."""
        return {key: value for key, value in ((KEYWORD, self.names), (WRAPPERS, self.wrappers)) if value}


class TaskConfig(TaskSection):
    """A task: its id, its keyword arguments, its names, and bounds that override the registered ones."""

    id: str = Field(description="id of the task, such as Graft/Gather-v0, CartPole-v1 or your_package:YourGame-v0")
    recall: Recalled | None = Field(
        None, description="of a target: the task on which kept is measured; the source, where it looks like the target"
    )

    @property
    def recalled(self) -> Task | None:
        """The task of ``recall``, under the same names and in the same wrappers."""
        return None if self.recall is None else self._named(self.recall.id, self.recall.kwargs)

    @property
    def scale(self) -> Bounds | None:
        """Bounds given here, else the registered ones, else None."""
        return self.scale_of(self.task)


def _pretrained_name(source: Any) -> str | None:
    """The name of a checkpoint that comes with Graft, where a source has one for its id."""
    name = source.get("id") if isinstance(source, dict) else source
    if not isinstance(name, str) or not name.isidentifier():  # as no id with a version is
        return None
    from graft.agents.pretrained import pretrained

    if name not in pretrained() and (meant := nearest(name, pretrained(), 0.8)):
        raise ValueError(f"there is no checkpoint '{name}' that comes with Graft; did you mean '{meant}'?")
    return name if name in pretrained() else None


class SourceConfig(TaskSection):
    """A task to pretrain on, or the folder of a checkpoint trained before."""

    name: Annotated[str, Field(min_length=1, max_length=40)] | None = Field(None, description="for tables and plots")
    checkpoint: Path | None = Field(
        None, description="folder of a checkpoint, or the name of one that comes with Graft, instead of a task"
    )
    backend: str | None = Field(None, description="who pretrains it, where that is not the experiment's backend")
    methods: Annotated[list[Any], _list(Named)] | None = Field(
        None, description="for this source instead of the common ones"
    )
    licence: Licence | None = Field(
        None, description="SPDX id of the licence it is under; by default what its checkpoint says"
    )

    @model_validator(mode="before")
    @classmethod
    def _pretrained(cls, data: Any) -> Any:
        """An id such as ``foundation`` is the checkpoint of this name that comes with Graft."""
        if (name := _pretrained_name(data)) is None:
            return data
        return {"name": name, **{key: value for key, value in data.items() if key != "id"}, "checkpoint": name}

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        of_task = self.kwargs or self._keywords() or self.backend or self.policy_mapping
        if (self.id is None) == (self.checkpoint is None) or (self.checkpoint is not None and of_task):
            raise ValueError(
                "a source is either a task (id, kwargs, backend) or a checkpoint (a folder, which knows its task)"
            )
        return self


_Task = Annotated[TaskConfig, as_mapping("id", TaskConfig)]
_Source = Annotated[SourceConfig, as_mapping("id", SourceConfig)]


class NetworkSection(Strict):
    """The encoder (by default the one that fits the observations), its options, and the heads' hidden units."""

    encoder: str | None = Field(
        default=None, description="name of the encoder; by default the one that fits the observations"
    )
    options: dict[str, Any] = Field(default={}, description="options of the encoder")
    head: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(64,), description="hidden units of each head, layer by layer"
    )
    activation: str | None = Field(
        default=None,
        description="tanh, relu, leaky_relu, elu, silu or gelu, in heads and in encoders that have the option; own: "
        "tanh in heads, and the encoder's default. By default relu for dqn, own for other algorithms",
    )


class Budget(Strict):
    """Env steps of one stage."""

    steps: Annotated[int, Field(ge=1)] = Field(description="env steps, rounded up to whole rollouts")


class TransferBudget(Strict):
    """Env steps of one transfer; 0 evaluates without training."""

    steps: Annotated[int, Field(ge=0)] = Field(
        description="env steps, rounded up to whole rollouts; of a target, 0 evaluates without training"
    )


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CostFactors(Strict):
    """Factors of the estimates of energy and CO2: results do not depend on them."""

    watts_per_core: NotNegative = Field(
        default=12.0,
        description="of a busy core, without memory and cooling; by default that of any processor in Green Algorithms "
        "(Lannelongue et al. 2021)",
    )
    watts_per_gpu: NotNegative = Field(
        default=200.0, description="of a GPU while a network trains on it; the same source"
    )
    grams_per_kwh: NotNegative = Field(
        default=473.0,
        description="grams of CO2e for each kWh; by default the world's mean in 2024 (Ember, Global Electricity Review "
        "2025)",
    )


class AuditLimits(Strict):
    """How far an agent may drift while it is fine-tuned before there is a warning: results do not depend on them."""

    spectrum: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="share of the first singular value in a layer's change, 1 where it has rank 1"
    )
    distance: NotNegative | None = Field(
        default=None, description="relative distance of a layer's weights to the start"
    )
    kl: NotNegative | None = Field(default=None, description="mean KL divergence of the policy, in nats")
    actions: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="share of states in which the likeliest action is another"
    )

    def by_tag(self) -> dict[str, float]:
        """Those that are set, by the tag of the metric."""
        return {f"audit/{name}": limit for name, limit in self.model_dump().items() if limit is not None}


class Common(Strict):
    """What every experiment has."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")] = Field(
        description="of the experiment and its folder"
    )
    methods: LIST_OF_METHODS = Field(
        description="names, or name: {option: value}; the controls scratch and random_frozen run unasked"
    )
    seeds: SEEDS = Field(list(range(5)), description="how many, or a list")
    pretrain: Budget = Field(Budget(steps=600_000), description="budget of each source, or of a sequence's first task")
    transfer: TransferBudget = Field(
        TransferBudget(steps=200_000), description="budget of each transfer, or of each later task"
    )
    network: NetworkSection = Field(NetworkSection(), description="the encoder and the heads")
    backend: str = Field(DEFAULT_BACKEND, description="who trains: sb3 (in one process) or rllib (Ray)")
    resources: Annotated[dict[str, Any], as_mapping("preset", dict[str, Any])] = Field(
        {"preset": "local"}, description="a preset (local, one_gpu, cluster), or a mapping with changes to one"
    )
    algorithm: Annotated[dict[str, Any], as_mapping("name", dict[str, Any])] = Field(
        {"name": "ppo"}, description="a name, or a mapping of name and options"
    )
    evaluation: dict[str, Any] = Field(
        {}, description="when and how to evaluate: every, episodes, num_envs, deterministic"
    )
    recall: Annotated[int, Field(ge=1)] = Field(
        256, description="episodes on each earlier task, to measure what was kept"
    )
    divergence_retries: Annotated[int, Field(ge=0, le=8)] = Field(
        2, description="how often a training that diverges begins again, each time at half the learning rate"
    )
    licence: Licence | None = Field(
        None, description="SPDX id of the licence that its checkpoints are under; by default their source's"
    )

    sinks: list[str] = Field(
        ["tensorboard"],
        description="where metrics go beside the folder: tensorboard, mlflow, wandb, or a class of your own as "
        "module:Class",
    )
    cost: CostFactors = Field(CostFactors(), description="factors of the estimates of energy and CO2")
    audit: AuditLimits = Field(
        AuditLimits(), description="limits of the audit/ metrics of fine-tuned agents, above which there is a warning"
    )

    @property
    def network_config(self) -> NetworkConfig:
        """Architecture as the agents know it."""
        from graft.agents.networks.policy_network import NetworkConfig

        return NetworkConfig(
            self.network.encoder, self.network.options, self.network.head, activation=self.network.activation
        )

    def algorithm_and_name(self, by: str | None = None) -> tuple[str, Algorithm]:
        """The algorithm's registered name, and the algorithm with its options: of a backend, or of the experiment's."""
        name = str(self.algorithm.get("name", "ppo"))
        options = {key: value for key, value in self.algorithm.items() if key != "name"}
        return name, build_options(f"algorithm {name}", backend(by or self.backend).ALGORITHMS[name], options)

    def resources_asked(self) -> Resources:
        """Processes and GPUs of each training."""
        return parse_resources(self.resources)

    def evaluation_plan(self) -> Evaluation:
        """When and how to evaluate."""
        from graft.agents.training.backend import Evaluation

        return build_options("evaluation", Evaluation, self.evaluation)

    def method_list(self, entries: Sequence[Any] | None = None) -> list[TransferMethod]:
        """The baseline, the other controls, then the methods named (in ``entries``, where given), each once."""
        from graft.transfer.method import METHODS, parse_method

        named = [parse_method(entry) for entry in (self.methods if entries is None else entries)]
        controls = [kind() for _, kind in METHODS.items() if "control" in kind.provides]
        # Methods are compared by value; some hold mappings and can't be hashed.
        unique: list[TransferMethod] = []
        for method in [*sorted(controls, key=lambda m: not m.baseline), *named]:
            if method not in unique:
                unique.append(method)
        return unique


class Config(Common):
    """A transfer experiment: every source is carried to every target by every method, once per seed."""

    sources: Annotated[list[_Source], _list(_Source), Field(min_length=1)] = Field(
        description="tasks to pretrain on, or checkpoints"
    )
    targets: Annotated[list[_Task], _list(_Task), Field(min_length=1)] = Field(description="tasks to transfer to")
    threshold: Finite = Field(0.5, description="normalised score that steps_to_threshold waits for")
    sim_to_sim: bool = Field(
        False, description="whether the targets stand in for reality: adds gap, recovery and worst"
    )
    override_licence: bool = Field(
        False, description="whether sources are used whose licence allows no derivatives; checkpoints record it"
    )
    clips: bool = Field(False, description="whether a GIF is made for each target, of agents before and after training")

    @model_validator(mode="before")
    @classmethod
    def _named_like_source(cls, data: Any) -> Any:
        """Writes the source's task where a target's ``schema`` says ``as: source``."""
        targets = data.get("targets") if isinstance(data, dict) else None
        listed: list[Any] = targets if isinstance(targets, list) else [targets]
        if not any(map(_says_source, listed)):
            return data
        return {**data, "targets": [_like_source(t, data.get("sources")) if _says_source(t) else t for t in listed]}


def _says_source(target: Any) -> bool:
    names = target.get("schema") if isinstance(target, dict) else None
    return isinstance(names, dict) and names.get(LIKE) == "source"


def _like_source(target: dict[str, Any], sources: Any) -> dict[str, Any]:
    listed = sources if isinstance(sources, list) else [sources]
    if len(listed) != 1 or not isinstance(listed[0], str | dict):
        raise ValueError(
            f"as: source of {target.get('id')} needs one source, and there are {len(listed)}; give as: the id of the "
            f"task whose names it takes, or as: {{id, kwargs}}"
        )
    return {**target, "schema": {**target["schema"], LIKE: _task_of(listed[0])}}


def _task_of(source: str | dict[str, Any]) -> Any:
    """A source's task as JSON values, with the names that it has; of a checkpoint, with the schemas in its manifest."""
    if (name := _pretrained_name(source)) is not None:
        source = {"checkpoint": name}
    if isinstance(source, str):
        return {"id": source}
    if source.get("checkpoint") is None:
        named = {key: source[key] for key in (KEYWORD, WRAPPERS) if key in source}
        given = source.get("kwargs", {})
        return {"id": source.get("id"), "kwargs": {**given, **named} if isinstance(given, dict) else given}
    from graft.agents.pretrained import checkpoint_folder

    manifest = checkpoint_folder(str(source["checkpoint"])) / "manifest.json"
    try:
        saved = json.loads(manifest.read_text(encoding="utf-8"))
        task = saved["task"]
        if DEFAULTS not in saved:
            task = with_view(task, saved["observation"])
        if saved.get("names", 1) < NAMES:  # names of an earlier version are those of its task today
            return task
        return {**task, SCHEMAS: {key: saved[key] for key in ("observation", "action")}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"as: source needs the source's task, and {manifest} cannot be read") from error


class SequenceConfig(Common):
    """A continual experiment: the tasks of ``sequence`` are learned one after the other by every method.

    An agent that does not know the task (``task_known``) plays earlier ones as after the latest.
    """

    sequence: Annotated[list[_Task], Field(min_length=2)] = Field(
        description="the tasks, in the order in which they are learned"
    )
    heads: Literal["per_task", "shared"] = Field("per_task", description="whether each task has heads of its own")
    task_known: bool = Field(True, description="whether the agent is told which earlier task it is tried on")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.transfer.steps == 0:
            raise ValueError("transfer.steps 0 is for targets, which are only evaluated then; a sequence has to train")
        if not self.task_known and self.heads == "per_task":
            raise ValueError("task_known: false needs heads: shared, as nothing could choose between heads")
        if any(task.recall is not None for task in self.sequence):
            raise ValueError("recall is for targets; in a sequence, every earlier task is evaluated anyway")
        if any(task.squad is not None for task in self.sequence):
            raise ValueError("policy_mapping is for sources and targets; a sequence trains one policy")
        return self

    def method_list(self, entries: Sequence[Any] | None = None) -> list[TransferMethod]:
        """As of every experiment, with heads shared where the sequence shares them.

        Raises:
            GraftError: a method that needs to know the task, or has heads per task, where there is no such thing.
        """
        from graft.transfer.method import label

        methods = super().method_list(entries)
        if races := [label(method) for method in methods if "races" in method.words()]:
            raise GraftError(f"{races[0]} is for transfers from sources to targets; leave it out of a sequence.")
        if self.heads == "per_task":
            for method in methods:
                if method.shares_heads:
                    raise GraftError(f"{label(method)} shares heads; set heads: shared for the whole sequence.")
            return methods
        shared = [method.with_shared_heads() for method in methods]
        for method in shared:
            if "needs_task" in method.words() and not self.task_known:
                raise GraftError(f"{label(method)} must know the task it is in; leave it out, or set task_known: true.")
        return shared


AnyConfig = Config | SequenceConfig


def config_schema() -> dict[str, Any]:
    """JSON schema of a config of either kind, for editors."""
    return TypeAdapter(AnyConfig).json_schema()


def longhand(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with its abbreviations written out, so that overrides can reach inside them."""

    def entries(given: Any, full: Callable[[str], dict[str, Any]]) -> Any:
        listed = given if isinstance(given, list) else [given]
        return [full(entry) if isinstance(entry, str) else entry for entry in listed]

    written = dict(data)
    for key in ("sources", "targets", "sequence"):
        if key in written:
            written[key] = entries(written[key], lambda name: {"id": name})
    if "methods" in written:
        written["methods"] = entries(written["methods"], lambda name: {name: {}})
    if isinstance(written.get("algorithm"), str):
        written["algorithm"] = {"name": written["algorithm"]}
    return written


def _set(data: Any, keys: Sequence[str], value: Any, whole: str) -> None:
    """Set the entry at the dotted ``keys``; a number is an index into a list."""
    for place, given in enumerate(keys):
        key: Any = given
        if isinstance(data, list):
            if given not in map(str, range(len(data))):
                raise GraftError(
                    f"Override '{whole}': '{given}' is not an index of a list of {len(data)}, 0 is the first."
                )
            key = int(given)
        elif not isinstance(data, dict):
            raise GraftError(f"Override '{whole}': there is nothing called '{given}' inside {shown(data)}.")
        if place == len(keys) - 1:
            data[key] = value
            return
        if isinstance(data, dict) and data.get(key) is None:
            data[key] = {}
        data = data[key]


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; raises GraftError where it holds something else."""
    try:
        with path.open("rb") as file:  # not all of a file that is no text, and has no end
            data = parse_yaml(file.read(LARGEST + 1))
    except (OSError, ValueError) as error:
        raise GraftError(f"{path.name} is not valid YAML: {printable(str(error), 300)}.") from error
    if not isinstance(data, dict):
        raise GraftError(f"{path.name} must hold keys and values, such as 'name: patch'; it holds {shown(data)}.")
    return data


def read_value(text: str, whose: str) -> Any:
    """A YAML value of the command line; raises GraftError, whose text begins with ``whose``, where it is none."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise GraftError(f"{whose}: {shown(text)} is not a YAML value: {printable(str(error), 300)}.") from error


def load_config(given: str, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a config and apply ``dotted.key=value`` overrides, whose values are YAML.

    Raises:
        GraftError: no such config, not YAML, an unknown key, or a value that is not allowed.
    """
    path = find_config(given)
    data = longhand(read_yaml(path))
    for override in overrides:
        key, _, text = override.partition("=")
        _set(data, key.split("."), read_value(text, f"Override '{override}'"), override)
    pairs = [key for key in ("sources", "targets") if key in data]
    if pairs and "sequence" in data:
        raise GraftError(
            f"{path.name} has both '{pairs[0]}' and 'sequence'; an experiment is of one kind or the other."
        )
    model: type[Config | SequenceConfig] = SequenceConfig if "sequence" in data else Config
    return parse_model(model, data, path.name)
