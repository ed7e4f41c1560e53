"""An experiment gone through with networks that were never trained, so that mistakes end it before anything is."""

from __future__ import annotations

from typing import NamedTuple

import torch

from agents.backend import Batch
from agents.checkpoint import Checkpoint
from agents.network import PolicyNetwork, build_network
from envs.dice import still
from envs.errors import GraftError
from envs.factory import check
from envs.task import Task
from experiments.archive import inherited
from experiments.graph import Comparison, Graph, Lifelong, Stage
from experiments.squads import partners
from transfer.method import PART, Place, State, TransferMethod, label
from transfer.transplant_report import TransplantReport

STATES = 8
"""Of a task that a method is shown where it would consolidate the task; all zero."""


class Prepared(NamedTuple):
    """A network that could be trained now, what the method remembers, and what was carried over."""

    network: PolicyNetwork
    state: State
    report: TransplantReport | None


def _prepared(method: TransferMethod, source: Checkpoint | None, stage: Stage) -> Prepared:
    """All that comes before the first env step of ``stage``."""
    try:
        network, report = method.build(source, stage.schemas, stage.network, 0)
        state = method.init(network, source)
        method.rates(network, state)
    except GraftError as error:
        raise GraftError(f"{label(method)} on {stage.task}: {error}") from error
    partners(stage, network)
    return Prepared(network, state, report)


def _first(method: TransferMethod, stage: Stage) -> Prepared:
    """A fresh network for a task that no transfer leads to, as it would be watched while it learns."""
    network = build_network(stage.schemas, stage.network, 0)
    return Prepared(network, method.init(network, None) if method.watches_source else {}, None)


def _consolidated(method: TransferMethod, learned: Prepared, task: Task, place: Place) -> Checkpoint:
    """What the method would leave of a task that ends."""
    network, state = method.finish(learned.network, learned.state), learned.state
    if method.overrides("consolidate"):
        schemas = network.schemas
        actions = torch.from_numpy(still(schemas.action, (STATES,)).copy())
        observations = torch.zeros(STATES, *schemas.observation.shape)
        network, state = method.consolidate(network, state, Batch(observations, actions), place)
    return Checkpoint.of(network, task, parts={PART: state})


def _source(graph: Graph, stage: Stage) -> Checkpoint | None:
    """What ``stage`` would start from."""
    if stage.source_folder is not None:
        return inherited(Checkpoint.load(stage.source_folder), stage.method)
    if stage.source is None:
        return None
    origin = graph.stages[stage.source]
    if origin.kind != "consolidate":
        return Checkpoint.of(build_network(origin.schemas, origin.network, 0), origin.task)
    assert stage.method is not None
    assert origin.place is not None
    if origin.source_folder is not None:
        loaded = inherited(Checkpoint.load(origin.source_folder), stage.method)
        learned = Prepared(loaded.build(), loaded.parts.get(PART, {}), None)
    else:
        learned = _first(stage.method, graph.stages[str(origin.source)])
    return _consolidated(stage.method, learned, origin.task, origin.place)


def _check_tasks(graph: Graph) -> None:
    needed = {task: check(task) for task in dict.fromkeys(stage.task for stage in graph.stages.values())}
    for stage in graph.stages.values():
        sizes = {"algorithm": stage.algorithm.num_envs, "evaluation": stage.evaluation.num_envs}
        for section, size in sizes.items():
            if size < needed[stage.task]:
                raise GraftError(
                    f"{stage.task} has {needed[stage.task]} parts, and num_envs of {section} is {size}; give it at "
                    f"least as many."
                )
        stage.algorithm.check(stage.schemas)
        if stage.kind == "pretrain":
            build_network(stage.schemas, stage.network, 0)


def rehearse(graph: Graph) -> list[tuple[Comparison, TransplantReport | None]]:
    """Build and prepare every network of a transfer experiment; returns what each comparison would carry over.

    Raises:
        GraftError: a task that can't be made, or a source, a target and a method that do not fit.
    """
    _check_tasks(graph)
    stages = [graph.stages[comparison.stages[0]] for comparison in graph.comparisons]
    return [
        (comparison, _prepared(comparison.method, _source(graph, stage), stage).report)
        for comparison, stage in zip(graph.comparisons, stages, strict=True)
    ]


def rehearse_sequence(graph: Graph) -> None:
    """Take every method from the first task of a sequence to the last.

    Raises:
        GraftError: a task that can't be made or played by the algorithm, or a method that does not fit.
    """
    _check_tasks(graph)
    for life in graph.lifelong:
        _live(graph, life)


def _live(graph: Graph, life: Lifelong) -> None:
    method, stages = life.method, [graph.stages[i] for i in life.trained[0]]
    if not method.uses_source:
        for stage in stages:
            _prepared(method, None, stage)
        return
    learned = _first(method, stages[0])
    for index, stage in enumerate(stages[1:]):
        source = _consolidated(method, learned, stages[index].task, Place(index, len(stages)))
        learned = _prepared(method, source, stage)
