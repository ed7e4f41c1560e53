"""The stage function: builds the network, trains it, and leaves a checkpoint and metrics. Every launcher calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Batch, Evaluation, Partners, TrainJob, TrainResult
from graft.agents.training.evaluate import evaluate
from graft.agents.training.rollouts import collect
from graft.envs.factory import make, schemas
from graft.errors import GraftError
from graft.experiments.config.backends import backend
from graft.experiments.plan.graph import Stage
from graft.experiments.stages.fault_checkpoint import rescued
from graft.experiments.stages.metrics_log import Ledger, Progress
from graft.experiments.stages.partners import partners, save_partners
from graft.experiments.stages.resume import Resumption, begin
from graft.experiments.store.records import Store, surroundings, write_json
from graft.transfer.probe import Probe
from graft.transfer.session import TransferSession
from graft.transfer.state import without
from graft.transfer.task_heads import (
    HEADS,
    Heads,
    archive_of,
    heads_of,
    inherited,
    of_task,
    serving,
    tasks_learned,
    with_task,
)

PROBE_STATES, PROBE_ENVS = 256, 16
"""States that diagnostics are measured on, and how many environments they are from."""

ROLLOUT_ENVS = 64
"""Environments in the batch that plays a task once more before it is consolidated."""

NOT_TRAINED = TrainResult(0, 0.0, [])


class Outcome(NamedTuple):
    """What a stage leaves: network and method's state, the heads of its tasks, and what it cost.

    ``before``: how its network did on tasks that were learned before it was trained. ``partners``: who learned beside.
    """

    session: TransferSession
    heads: Heads
    result: TrainResult
    before: tuple[Mapping[str, Any], ...] = ()
    partners: Partners | None = None


class _Work(NamedTuple):
    """A stage while it runs."""

    stage: Stage
    source: Checkpoint | None
    store: Store
    ledger: Ledger
    resumption: Resumption
    workers: int

    def rescued(self, outcome: Callable[[TrainResult], Outcome]) -> AbstractContextManager[None]:
        """Where environments fail too often, ``outcome`` of the training so far becomes a checkpoint."""

        def save(result: TrainResult, folder: Path) -> Checkpoint:
            return _save(self.stage, outcome(result), self.source, folder)

        return rescued(self.store.folder(self.stage.id), save)

    def train(
        self, session: TransferSession, budget: int, evaluation: Evaluation, beside: Partners | None = None
    ) -> TrainResult:
        """Train the session's network by the stage's backend."""
        stage = self.stage
        job = TrainJob(
            network=session.network,
            task=stage.task,
            algorithm=stage.algorithm,
            budget=budget,
            seed=stage.random_seeds()[1],
            record=self.ledger,
            evaluation=evaluation,
            hooks=session.hooks(),
            snapshots=self.resumption.snapshots(self.ledger, session),
            workers=self.workers,
            resources=stage.resources,
            partners=beside,
        )
        return backend(stage.backend).train(job)


def _nobody(_: str) -> None:
    """Where nobody is to be told."""


def run_stage(
    stage: Stage, store: Store, progress: Progress, workers: int = 1, note: Callable[[str], None] = _nobody
) -> None:
    """Run a stage from its start to its record; what it needs from other stages is in ``store`` already.

    Args:
        workers: processes that environments are spread over in training (`envs.make`); no part of the stage, as its
            results are the same.
        note: told, in a sentence for people, why a stage that was stopped starts over.
    Raises:
        GraftError: the source's checkpoint is damaged, or does not fit the task.
        Unstable: training diverged.
    """
    resumption = begin(stage, store)
    if resumption.why:
        note(f"Note: {stage.label} starts over: {resumption.why}.")
    source = _source(stage, store)
    with Ledger(store.folder(stage.id), stage.scale, progress) as ledger:
        work = _Work(stage, source, store, ledger, resumption, workers)
        outcome = (_consolidate if stage.kind == "consolidate" else _train)(work)
        with work.rescued(lambda _: outcome):
            row = [_recall(stage, outcome, index) for index in range(len(stage.recall))]
        if row:
            ledger(outcome.result.env_steps, {f"recall/{entry['task']}": entry["return_mean"] for entry in row})
    left = _checkpoint(stage, outcome, source)
    store.check_holder(stage.id)
    save_partners(stage, outcome.partners, store.folder(stage.id), left, outcome.session)
    store.finish(
        stage,
        env_steps=outcome.result.env_steps,
        seconds=round(outcome.result.seconds, 2),
        checkpoint=left.save(store.folder(stage.id) / "checkpoint"),
        recall=row,
        **({"recall_before": outcome.before} if outcome.before else {}),
        size=_size(stage, outcome),
        **_parts("return_means", outcome.result.final_means),
        **_parts("faults", outcome.result.faults),
    )


def _probe(stage: Stage, network: PolicyNetwork, source: Checkpoint | None, seed: int) -> Probe:
    """Measures ``network`` on states of a random player on the target.

    Features are compared with those the network starts from; with the source's own where it does not start from them
    and the two tasks look the same.
    """
    env = make(stage.task, PROBE_ENVS, seed, observation=network.schemas.observation)
    try:
        env.action_space.seed(seed % 2**32)
        obs, infos = env.reset()
        states = [obs[infos.get("alive", slice(None))]]  # of rows in play
        for _ in range(PROBE_STATES // PROBE_ENVS - 1):
            obs, *_, infos = env.step(env.action_space.sample())
            states.append(obs[infos.get("alive", slice(None))])
    finally:
        env.close()
    assert stage.method is not None
    reference = None
    if source is not None and "fresh_weights" in stage.method.words():
        same = source.schemas.observation == network.schemas.observation
        reference = source.build() if same else None
    return Probe(network, np.concatenate(states), reference)


def _source(stage: Stage, store: Store) -> Checkpoint | None:
    if stage.source_folder is not None:
        loaded = Checkpoint.load(stage.source_folder)
        if loaded.id != stage.source:
            raise GraftError(f"The checkpoint in {stage.source_folder} was replaced since the experiment began.")
        return inherited(loaded, stage.method)
    return store.checkpoint(stage.source) if stage.source is not None else None


def _train(work: _Work) -> Outcome:
    """A pretraining or a transfer."""
    stage, source, ledger = work.stage, work.source, work.ledger
    weights_seed, _ = stage.random_seeds()
    session = TransferSession.begin(stage.method, source, stage.schemas, stage.network, weights_seed)
    if stage.method is not None:
        with work.rescued(lambda _: Outcome(session, {}, NOT_TRAINED)):
            session.probe = _probe(stage, session.network, source, weights_seed)
    if session.report is not None:
        write_json(work.store.folder(stage.id) / "transplant.json", session.report.to_json())

    before: tuple[Mapping[str, Any], ...] = ()
    beside = partners(stage, session.network)

    def left(result: TrainResult) -> Outcome:
        finished, archive = session.finish(), archive_of(source)
        heads = with_task(archive, finished.network, tasks_learned(archive)) if archive else {}
        return Outcome(finished, heads, result, before, beside)

    with work.rescued(left):
        tried = [index for index, recall in enumerate(stage.recall) if recall.before]
        before = tuple(_recall(stage, left(NOT_TRAINED), index) for index in tried)
        result = work.train(session, stage.budget, stage.evaluation, beside)
    ledger.summarise(stage, sum(result.final_returns) / len(result.final_returns))
    return left(result)


def _consolidate(work: _Work) -> Outcome:
    """What follows a task that was learned, before the next one."""
    stage, source, position = work.stage, work.source, work.stage.position
    assert stage.method is not None
    assert source is not None
    assert position is not None
    method, start, session = stage.method, time.perf_counter(), TransferSession.of(stage.method, source)
    steps = session.consolidate(lambda network, states: _rollouts(stage, network, states), position)
    if method.overrides("consolidate"):
        work.ledger.passed(steps)
    seconds = time.perf_counter() - start

    def left(result: TrainResult) -> Outcome:
        heads = with_task(archive_of(source), session.network, position.task)
        return Outcome(
            session, heads, result._replace(env_steps=steps + result.env_steps, seconds=seconds + result.seconds)
        )

    if not method.retraining:
        return left(NOT_TRAINED)
    with work.rescued(left):
        result = work.train(session, method.retraining, replace(stage.evaluation, every=method.retraining))
    return left(result)


def _rollouts(stage: Stage, network: PolicyNetwork, states: int) -> Batch:
    seed, _ = stage.random_seeds()
    env = make(stage.task, ROLLOUT_ENVS, seed, observation=network.schemas.observation)
    try:
        return collect(network, env, states, torch.Generator(next(network.parameters()).device).manual_seed(seed))
    finally:
        env.close()


def _recall(stage: Stage, outcome: Outcome, which: int) -> dict[str, Any]:
    """How the stage's network does on the task ``stage.recall[which]`` now."""
    assert stage.method is not None
    index, task = stage.recall[which].index, stage.recall[which].task
    viewed = outcome.session.view(index)
    heads = heads_of(viewed) if stage.method.shares_heads else of_task(outcome.heads, index)
    network = serving(viewed, heads, schemas(task))
    seed = stage.recall_seed(task)
    env = make(task, stage.evaluation.num_envs, seed, observation=network.schemas.observation)
    try:
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        episodes = evaluate(network, env, stage.recall_episodes, generator, stage.evaluation.deterministic)
    finally:
        env.close()
    row = {"index": index, "task": str(task), "return_mean": float(episodes.returns.mean())}
    return row | {"episodes": len(episodes.returns), **_parts("return_means", episodes.means(env.groups))}


def _parts(name: str, means: Mapping[str, float]) -> dict[str, Any]:
    """Numbers by name, for a record; where there are none, the record does not have them."""
    return {name: dict(means)} if means else {}


def _size(stage: Stage, outcome: Outcome) -> dict[str, int]:
    """Parameters of the network, and bytes of what must be kept beside it: memory, and heads of other tasks."""
    kept = list(outcome.session.state.values())
    if stage.method is not None and not stage.method.shares_heads:
        kept += without(outcome.heads, tasks_learned(outcome.heads) - 1).values()
    return {
        "parameters": sum(p.numel() for p in outcome.session.network.parameters()),
        "bytes_beside": sum(t.numel() * t.element_size() for t in kept),
    }


def _save(stage: Stage, outcome: Outcome, source: Checkpoint | None, folder: Path) -> Checkpoint:
    """Write the checkpoint of a stage that ends too early, and within it those of the policies that learned beside."""
    own = _checkpoint(stage, outcome, source)
    own.save(folder)
    save_partners(stage, outcome.partners, folder, own, outcome.session)
    return own


def _checkpoint(stage: Stage, outcome: Outcome, source: Checkpoint | None) -> Checkpoint:
    session, result = outcome.session, outcome.result
    returns = torch.tensor(result.final_returns, dtype=torch.float64)
    half_width = 1.96 * float(returns.std()) / len(returns) ** 0.5 if len(returns) > 1 else None
    mean = float(returns.mean()) if len(returns) else None
    record = {
        "stage": stage.to_json(),
        "random_seeds": list(stage.random_seeds()),
        "env_steps": result.env_steps,
        "evaluation": {"episodes": len(returns), "return_mean": mean, "ci95": half_width}
        | _parts("return_means", result.final_means),
        **_parts("faults", result.faults),
        "transplant": None if session.report is None else session.report.summary(),
        "licence": "unspecified",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **surroundings(),
    }
    lineage = () if source is None else (str(source.id), *source.lineage)
    return session.checkpoint(stage.task, {HEADS: outcome.heads}, lineage=lineage, record=record)
