"""A patch check before anything is played: the agent, both builds, and the trainings as an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.task import Bounds, Task
from graft.envs.factory import check as check_task
from graft.envs.factory import schemas
from graft.errors import GraftError, unknown
from graft.experiments.config.backends import backend
from graft.experiments.config.experiment import Config
from graft.experiments.config.options import parse_model
from graft.experiments.config.patch import EVALUATIONS, Build, Gate, PatchConfig
from graft.experiments.patching.play import (
    check_predicate,
    scenario_task,
)
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.playback.agent import check_fit, find_checkpoint, playing
from graft.experiments.report.conclusions import check_pairs
from graft.experiments.report.schema_changes import Change, schema_changes
from graft.transfer.method import FromSource, label, method_name, parse_method
from graft.transfer.session import TransferSession
from graft.transfer.transplant_report import TransplantReport


@dataclass(frozen=True)
class Patch:
    """A check before anything is played.

    Attributes:
        scales: bounds of the old and the new build; None where returns are compared, as one of them has none.
        experiment, graph: the trainings, an ordinary experiment of ``graft run``.
        report: of the transplant by which the agent plays the new build; None where both have the same schemas.
        networks: the agent on the new build as it is before any training, for every seed.
    """

    config: PatchConfig
    agent: Checkpoint
    old: Task
    new: Task
    scales: tuple[Bounds, Bounds] | None
    experiment: Config
    graph: Graph
    changes: list[Change]
    report: TransplantReport | None
    networks: list[PolicyNetwork]

    @property
    def old_network(self) -> PolicyNetwork:
        """The agent on the old build."""
        return playing(self.agent.build(), self.old)

    @property
    def methods(self) -> list[Comparison]:
        """Those that were asked for, then the controls."""
        asked = [label(parse_method(entry)) for entry in self.config.methods]
        return sorted(self.graph.comparisons, key=lambda c: [*asked, label(c.method)].index(label(c.method)))

    def normalise(self, returns: Any, new: bool) -> Any:
        """Returns of a build as what shares are of: the normalised score, or the return itself."""
        return returns if self.scales is None else self.scales[new].normalise(returns)


def prepare(config: PatchConfig) -> Patch:
    """Load the agent, make both builds and every network; raises GraftError where something does not fit."""
    folder = find_checkpoint(config.agent)
    agent = Checkpoint.load(folder)
    old = _task(config.old, agent)
    experiment = _experiment(config, agent, str(folder))
    target = experiment.targets[0]
    new = target.task
    check_fit(agent.schemas, old)
    for task in dict.fromkeys((old, new)):
        check_task(task)
    for scenario in config.scenarios:
        task = scenario_task(scenario, old, new)
        if scenario.measure is not None:
            check_predicate(scenario.measure, task)
    for gate in config.gates:
        gated_method(config, gate)
    graph = expand(experiment)
    check_pairs(graph)
    report, networks = _before_training(config, agent, new)
    scales = config.old.scale_of(old), target.scale
    both = (scales[0], scales[1]) if scales[0] is not None and scales[1] is not None else None
    changes = schema_changes(agent.schemas if old == agent.task else schemas(old), schemas(new))
    return Patch(config, agent, old, new, both, experiment, graph, changes, report, networks)


def _task(build: Build, agent: Checkpoint) -> Task:
    """A build's task; without an id the agent's own, with these keyword arguments changed."""
    return build.model_copy(update=_longhand(build, agent)).task


def _longhand(build: Build, agent: Checkpoint) -> dict[str, Any]:
    if build.id is not None:
        return {"id": build.id, "kwargs": build.kwargs}
    return {"id": agent.task.id, "kwargs": {**agent.task.kwargs, **build.kwargs}}


def _experiment(config: PatchConfig, agent: Checkpoint, folder: str) -> Config:
    """The trainings as an experiment of ``graft run``."""
    target = config.new.model_dump(mode="json", by_alias=True, exclude_defaults=True) | _longhand(config.new, agent)
    source: dict[str, Any] = {"checkpoint": folder}
    if config.old.bounds is not None:
        source["bounds"] = config.old.bounds
    known = backend(config.backend).ALGORITHMS
    trained_by = str(((agent.record.get("stage") or {}).get("algorithm") or {}).get("name"))
    data = {
        "name": config.name,
        "sources": [source],
        "targets": [target],
        "methods": config.methods,
        "seeds": config.seeds,
        "transfer": {"steps": config.steps},
        "algorithm": {"name": trained_by if trained_by in known else "ppo"} | config.algorithm,
        "backend": config.backend,
        "evaluation": {"every": max(1, config.steps // EVALUATIONS)} | config.evaluation,
        "recall": config.episodes,
    }
    return parse_model(Config, data, f"{config.name} (new, as a target)")


def _before_training(
    config: PatchConfig, agent: Checkpoint, new: Task
) -> tuple[TransplantReport | None, list[PolicyNetwork]]:
    """The transplant's report, and for every seed the agent as it would play the new build today."""
    target = schemas(new)
    if agent.schemas == target:
        return None, [agent.build() for _ in config.seeds]
    method, first = FromSource(), parse_method(config.methods[0])
    if isinstance(first, FromSource):
        method = FromSource(rename=first.rename, new_channels=first.new_channels)
    sessions = [TransferSession.begin(method, agent, target, agent.network, seed) for seed in config.seeds]
    return sessions[0].report, [session.network for session in sessions]


def gated_method(config: PatchConfig, gate: Gate) -> str:
    """Label of the method that a gate is about; raises GraftError where there is no such method."""
    methods = [parse_method(entry) for entry in config.methods]
    if gate.method is None:
        return label(methods[0])
    labels = [label(m) for m in methods]
    if gate.method in labels:
        return gate.method
    found = [text for text, m in zip(labels, methods, strict=True) if gate.method == method_name(m)]
    if not found:
        raise unknown("method of a gate", gate.method, labels)
    if len(found) > 1:
        raise GraftError(f"The method of a gate '{gate.method}' fits several; give one of {', '.join(found)}.")
    return found[0]
