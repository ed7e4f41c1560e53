"""Preflight: build every network of an experiment, untrained, so that mistakes end it before any training."""

from __future__ import annotations

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.random_actions import no_op
from graft.envs.core.task import Task
from graft.envs.factory import check
from graft.errors import GraftError
from graft.experiments.plan.stage import Comparison, ContinualComparison, Graph, Stage
from graft.experiments.stages.partners import build_partners
from graft.transfer.method import TaskPosition, TransferMethod, label
from graft.transfer.methods.auto import Auto
from graft.transfer.session import TransferSession
from graft.transfer.task_heads import inherited
from graft.transfer.transplant_report import TransplantReport

STATES = 8
"""Observations, all zero, from which a method consolidates."""


def preflight(graph: Graph) -> list[tuple[Comparison, TransplantReport | None]]:
    """Build and prepare every network of a transfer experiment; returns what each comparison would carry over.

    Raises:
        GraftError: a task that can't be made, or a source, a target and a method that do not fit.
    """
    _check_tasks(graph)
    stages = [graph.stages[comparison.stages[0]] for comparison in graph.comparisons]
    for comparison, stage in zip(graph.comparisons, stages, strict=True):
        _check_candidates(comparison.method, _source(graph, stage), stage)
    return [
        (comparison, _begin(comparison.method, _source(graph, stage), stage).report)
        for comparison, stage in zip(graph.comparisons, stages, strict=True)
    ]


def _check_candidates(method: TransferMethod, source: Checkpoint | None, stage: Stage) -> None:
    """Prepare those that would race; raises GraftError where one is mistaken, and not only without place there."""
    if isinstance(method, Auto) and source is not None:
        entrants, _ = method.entrants(source, stage.schemas, stage.network)
        for one in entrants.values():
            _begin(one, source if one.uses_source else None, stage)


def preflight_sequence(graph: Graph) -> None:
    """Take every method from the first task of a sequence to the last; raises GraftError where one does not fit."""
    _check_tasks(graph)
    for comparison in graph.continual:
        _check_chain(graph, comparison)


def _check_chain(graph: Graph, comparison: ContinualComparison) -> None:
    method, stages = comparison.method, [graph.stages[i] for i in comparison.trained[0]]
    if not method.uses_source:
        for stage in stages:
            _begin(method, None, stage)
        return
    session = _begin_fresh(method, stages[0])
    for index, stage in enumerate(stages[1:]):
        source = _consolidate(session, stages[index].task, TaskPosition(index, len(stages)))
        session = _begin(method, source, stage)


def _check_tasks(graph: Graph) -> None:
    longest = {stage.task: stage.evaluation.max_steps for stage in graph.stages.values()}
    parts = {task: check(task, steps) for task, steps in longest.items()}
    for stage in graph.stages.values():
        sizes = {"algorithm": stage.algorithm.num_envs, "evaluation": stage.evaluation.num_envs}
        for section, size in sizes.items():
            if size < parts[stage.task]:
                raise GraftError(
                    f"{stage.task} has {parts[stage.task]} parts, and num_envs of {section} is {size}; give it at "
                    f"least as many."
                )
        stage.algorithm.check(stage.schemas)
        if stage.kind == "pretrain":
            build_network(stage.schemas, stage.network, 0)


def _begin(method: TransferMethod, source: Checkpoint | None, stage: Stage) -> TransferSession:
    try:
        if method.critic_warmup and stage.algorithm.distribution != "squashed":
            raise GraftError("critic_warmup is for algorithms with critics beside the network: sac; leave it out.")
        session = TransferSession.begin(
            method, source, stage.schemas, stage.network, 0, stage.algorithm.keeps_transitions
        )
        session.hooks()
    except GraftError as error:
        raise GraftError(f"{label(method)} on {stage.task}: {error}") from error
    build_partners(stage, session.network)
    return session


def _begin_fresh(method: TransferMethod, stage: Stage) -> TransferSession:
    return TransferSession.begin(method, None, stage.schemas, stage.network, 0)


def _source(graph: Graph, stage: Stage) -> Checkpoint | None:
    """An untrained checkpoint like the one that ``stage`` would start from."""
    if stage.source is None:
        return None
    if stage.source in graph.checkpoints:
        return inherited(graph.checkpoints[stage.source], stage.method)
    source = graph.stages[stage.source]
    if source.kind != "consolidate":
        return Checkpoint.of(build_network(source.schemas, source.network, 0), source.task)
    assert stage.method is not None
    assert source.position is not None
    if source.source in graph.checkpoints:
        session = TransferSession.of(stage.method, inherited(graph.checkpoints[source.source], stage.method))
    else:
        session = _begin_fresh(stage.method, graph.stages[str(source.source)])
    return _consolidate(session, source.task, source.position)


def _consolidate(session: TransferSession, task: Task, position: TaskPosition) -> Checkpoint:
    finished = session.finish()
    finished.consolidate(_zeros, position)
    return finished.checkpoint(task)


def _zeros(network: PolicyNetwork, _: int, unroll: int) -> Rollouts:
    schemas, count = network.schemas, unroll * -(-STATES // unroll)
    actions, numbers = torch.from_numpy(no_op(schemas.action, (count,)).copy()), torch.zeros(count)
    return Rollouts(torch.zeros(count, *schemas.observation.shape), actions, numbers, numbers, unroll)
