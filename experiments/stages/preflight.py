"""Preflight: build every network of an experiment, untrained, so that mistakes end it before any training."""

from __future__ import annotations

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.agents.training.backend import Batch
from graft.envs.core.random_actions import no_op
from graft.envs.core.task import Task
from graft.envs.factory import check
from graft.errors import GraftError
from graft.experiments.plan.graph import Comparison, Graph, Lifelong, Stage
from graft.experiments.stages.partners import partners
from graft.transfer.method import TaskPosition, TransferMethod, label
from graft.transfer.session import TransferSession
from graft.transfer.task_heads import inherited
from graft.transfer.transplant_report import TransplantReport

STATES = 8
"""Of a task that a method is shown where it would consolidate the task; all zero."""


def _prepared(method: TransferMethod, source: Checkpoint | None, stage: Stage) -> TransferSession:
    """All that comes before the first env step of ``stage``."""
    try:
        session = TransferSession.begin(method, source, stage.schemas, stage.network, 0)
        session.hooks()
    except GraftError as error:
        raise GraftError(f"{label(method)} on {stage.task}: {error}") from error
    partners(stage, session.network)
    return session


def _first(method: TransferMethod, stage: Stage) -> TransferSession:
    """On a fresh network for a task that no transfer leads to."""
    return TransferSession.begin(method, None, stage.schemas, stage.network, 0)


def _zeros(network: PolicyNetwork, _: int) -> Batch:
    schemas = network.schemas
    actions = torch.from_numpy(no_op(schemas.action, (STATES,)).copy())
    return Batch(torch.zeros(STATES, *schemas.observation.shape), actions)


def _consolidated(learned: TransferSession, task: Task, position: TaskPosition) -> Checkpoint:
    """What the method would leave of a task that ends."""
    finished = learned.finish()
    finished.consolidate(_zeros, position)
    return finished.checkpoint(task)


def _source(graph: Graph, stage: Stage) -> Checkpoint | None:
    """What ``stage`` would start from."""
    if stage.source is None:
        return None
    if stage.source in graph.checkpoints:
        return inherited(graph.checkpoints[stage.source], stage.method)
    origin = graph.stages[stage.source]
    if origin.kind != "consolidate":
        return Checkpoint.of(build_network(origin.schemas, origin.network, 0), origin.task)
    assert stage.method is not None
    assert origin.position is not None
    if origin.source in graph.checkpoints:
        loaded = inherited(graph.checkpoints[origin.source], stage.method)
        learned = TransferSession.of(stage.method, loaded)
    else:
        learned = _first(stage.method, graph.stages[str(origin.source)])
    return _consolidated(learned, origin.task, origin.position)


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
        source = _consolidated(learned, stages[index].task, TaskPosition(index, len(stages)))
        learned = _prepared(method, source, stage)
