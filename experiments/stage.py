"""The stage function: builds the network, trains it, and leaves a checkpoint and metrics. Every launcher calls it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents.backend import Batch, Grads, Hooks, Partners, TrainResult
from agents.checkpoint import Checkpoint
from agents.evaluate import evaluate
from agents.network import PolicyNetwork, build_network
from agents.rollouts import collect
from agents.snapshot import Saved
from envs.errors import GraftError
from envs.factory import make, schemas
from experiments.archive import HEADS, archive_of, inherited, numbered, of_task, tasks_learned
from experiments.backends import backend
from experiments.graph import Stage
from experiments.ledger import Ledger, Progress
from experiments.rescue import rescued
from experiments.resume import begin, snapshots
from experiments.squads import partners, save_partners
from experiments.store import Store, surroundings, write_json
from transfer.method import PART, State, TransferMethod
from transfer.probe import GradientMeter, Probe
from transfer.tasks import heads_of, serving
from transfer.transplant_report import TransplantReport

PROBE_STATES, PROBE_ENVS = 256, 16
"""States that diagnostics are measured on, and how many environments they are from."""

ROLLOUT_ENVS = 64
"""Environments in the batch that plays a task once more before it is consolidated."""


class _Running:
    """A method's hooks with its state threaded through them, and the diagnostics of what they do."""

    def __init__(self, method: TransferMethod, network: PolicyNetwork, state: State, probe: Probe | None) -> None:
        self.method, self.network, self.state = method, network, state
        self._probe, self._meter = probe, GradientMeter()

    def __getstate__(self) -> dict[str, Any]:
        """For learners in other processes, which have a network of their own and report nothing."""
        return {**vars(self), "network": None, "_probe": None}

    def gradients(self, grads: Grads, network: PolicyNetwork, batch: Batch) -> Grads:
        before = self._meter.start(grads)
        changed, self.state, penalty = self.method.gradients(grads, network, self.state, batch)
        if before is not None:
            self._meter.measure(before, changed, penalty)
        return changed

    def schedule(self, network: PolicyNetwork, progress: float) -> None:
        self.state = self.method.schedule(network, self.state, progress)

    def report(self, network: PolicyNetwork) -> Mapping[str, float]:
        found = dict(self._meter.report())
        return found if self._probe is None else found | self._probe.measure(network)

    def save(self) -> Saved:
        """What goes into a snapshot."""
        return Saved(self.state, {"meter": self._meter.save()})

    def restore(self, saved: Saved) -> None:
        """Go back to a state of `save`."""
        self.state = dict(saved.tensors)
        self._meter.restore(saved.values["meter"])

    def hooks(self) -> Hooks:
        """What training calls; gradients and schedule only where the method has its own, as others cost nothing."""
        return Hooks(
            gradients=self.gradients if self.method.overrides("gradients") else None,
            schedule=self.schedule if self.method.overrides("schedule") else None,
            rates=self.method.rates(self.network, self.state),
            report=self.report,
            state=self,
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
    if source is not None and not stage.method.carries_weights:
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


class Outcome(NamedTuple):
    """What a stage leaves: the network, what the method remembers, the heads of its tasks, and what it cost.

    ``before``: how its network did on tasks that were learned before it was trained. ``partners``: who learned beside.
    """

    network: PolicyNetwork
    state: State
    heads: Mapping[str, torch.Tensor]
    result: TrainResult
    report: TransplantReport | None = None
    before: tuple[Mapping[str, Any], ...] = ()
    partners: Partners | None = None


def run_stage(stage: Stage, store: Store, progress: Progress, workers: int = 1) -> None:
    """Run a stage from its start to its record; what it needs from other stages is in ``store`` already.

    Args:
        workers: processes that environments are spread over in training (`envs.make`); no part of the stage, as its
            results are the same.
    Raises:
        GraftError: the source's checkpoint is damaged, or does not fit the task.
        Unstable: training diverged.
    """
    begin(stage, store)
    source = _source(stage, store)
    with Ledger(store.folder(stage.id), stage.scale, progress) as ledger:
        work = _consolidate if stage.kind == "consolidate" else _train
        outcome = work(stage, source, store, ledger, workers)
        with rescued(store.folder(stage.id), lambda _, place: _save(stage, outcome, source, place)):
            row = [_recall(stage, outcome, index) for index in range(len(stage.recall))]
        if row:
            ledger(outcome.result.env_steps, {f"recall/{entry['task']}": entry["return_mean"] for entry in row})
    left = _checkpoint(stage, outcome, source)
    store.check_holder(stage.id)
    save_partners(stage, outcome.partners, store.folder(stage.id), left, outcome.state)
    checkpoint = left.save(store.folder(stage.id) / "checkpoint")
    store.finish(
        stage,
        env_steps=outcome.result.env_steps,
        seconds=round(outcome.result.seconds, 2),
        checkpoint=checkpoint,
        recall=row,
        **({"recall_before": outcome.before} if outcome.before else {}),
        size=_size(stage, outcome),
        **_parts("return_means", outcome.result.final_means),
        **_parts("faults", outcome.result.faults),
    )


def _train(stage: Stage, source: Checkpoint | None, store: Store, ledger: Ledger, workers: int) -> Outcome:
    """A pretraining or a transfer."""
    weights_seed, training_seed = stage.random_seeds()
    method, report = stage.method, None
    if method is None or (stage.kind == "pretrain" and method.uses_source):
        network = build_network(stage.schemas, stage.network, weights_seed)
    else:
        network, report = method.build(source, stage.schemas, stage.network, weights_seed)
    running = None
    if method is not None:
        begun = Outcome(network, {}, {}, TrainResult(0, 0.0, []), report)
        with rescued(store.folder(stage.id), lambda _, place: _save(stage, begun, source, place)):
            probe = _probe(stage, network, source, weights_seed)
        running = _Running(method, network, method.init(network, source), probe)
    if report is not None:
        write_json(store.folder(stage.id) / "transplant.json", report.to_json())

    before: tuple[Mapping[str, Any], ...] = ()
    others = partners(stage, network)

    def left(result: TrainResult) -> Outcome:
        state: State = {} if running is None else running.state
        finished = network if running is None else running.method.finish(network, state)
        archive = archive_of(source)
        heads = {**archive, **numbered(heads_of(finished), tasks_learned(archive))} if archive else {}
        return Outcome(finished, state, heads, result, report, before, others)

    with rescued(store.folder(stage.id), lambda result, place: _save(stage, left(result), source, place)):
        tried = [index for index, recall in enumerate(stage.recall) if recall.before]
        before = tuple(_recall(stage, left(TrainResult(0, 0.0, [])), index) for index in tried)
        result = backend(stage.backend).train(
            network,
            stage.task,
            stage.algorithm,
            stage.budget,
            training_seed,
            ledger,
            stage.evaluation,
            running.hooks() if running else None,
            snapshots=snapshots(stage, store, ledger, running),
            workers=workers,
            resources=stage.resources,
            **({"partners": others} if others is not None else {}),
        )
    ledger.summarise(stage, _mean(result.final_returns))
    return left(result)


def _consolidate(stage: Stage, source: Checkpoint | None, store: Store, ledger: Ledger, workers: int) -> Outcome:
    """What follows a task that was learned, before the next one."""
    assert stage.method is not None
    assert source is not None
    assert stage.place is not None
    method, start = stage.method, time.perf_counter()
    rollout_seed, training_seed = stage.random_seeds()
    network, state, steps = source.build(), source.parts.get(PART, {}), 0
    if method.overrides("consolidate"):
        rollouts = _rollouts(stage, network, rollout_seed)
        steps = len(rollouts.actions)
        ledger.passed(steps)
        network, state = method.consolidate(network, state, rollouts, stage.place)
    seconds, running = time.perf_counter() - start, _Running(method, network, state, None)

    def left(result: TrainResult) -> Outcome:
        assert stage.place is not None
        heads = {**archive_of(source), **numbered(heads_of(network), stage.place.task)}
        total = result._replace(env_steps=steps + result.env_steps, seconds=seconds + result.seconds)
        return Outcome(network, running.state, heads, total)

    if not method.retraining:
        return left(TrainResult(0, 0.0, []))
    with rescued(store.folder(stage.id), lambda result, place: _save(stage, left(result), source, place)):
        result = backend(stage.backend).train(
            network,
            stage.task,
            stage.algorithm,
            method.retraining,
            training_seed,
            ledger,
            replace(stage.evaluation, every=method.retraining),
            running.hooks(),
            snapshots=snapshots(stage, store, ledger, running),
            workers=workers,
            resources=stage.resources,
        )
    return left(result)


def _rollouts(stage: Stage, network: PolicyNetwork, seed: int) -> Batch:
    assert stage.method is not None
    if not stage.method.states:
        space = torch.zeros(0, *network.schemas.observation.shape)
        return Batch(space, torch.zeros(0, dtype=torch.long))
    env = make(stage.task, ROLLOUT_ENVS, seed, observation=network.schemas.observation)
    try:
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        return collect(network, env, stage.method.states, generator)
    finally:
        env.close()


def _recall(stage: Stage, outcome: Outcome, which: int) -> dict[str, Any]:
    """How the stage's network does on the task ``stage.recall[which]`` now."""
    assert stage.method is not None
    index, task = stage.recall[which].index, stage.recall[which].task
    viewed = stage.method.view(outcome.network, outcome.state, index)
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
    kept = list(outcome.state.values())
    if stage.method is not None and not stage.method.shares_heads:
        own = tasks_learned(outcome.heads) - 1
        kept += [t for name, t in outcome.heads.items() if not name.startswith(f"{own}.")]
    return {
        "parameters": sum(p.numel() for p in outcome.network.parameters()),
        "bytes_beside": sum(t.numel() * t.element_size() for t in kept),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _save(stage: Stage, outcome: Outcome, source: Checkpoint | None, place: Path) -> Checkpoint:
    """Write the checkpoint of a stage that ends too early, and within it those of the policies that learned beside."""
    own = _checkpoint(stage, outcome, source)
    own.save(place)
    save_partners(stage, outcome.partners, place, own, outcome.state)
    return own


def _checkpoint(stage: Stage, outcome: Outcome, source: Checkpoint | None) -> Checkpoint:
    network, state, heads, result, report, *_ = outcome
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
        "transplant": None if report is None else report.summary(),
        "licence": "unspecified",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **surroundings(),
    }
    lineage = () if source is None else (str(source.id), *source.lineage)
    parts = {name: part for name, part in {PART: state, HEADS: heads}.items() if part}
    return Checkpoint.of(network, stage.task, lineage=lineage, record=record, parts=parts)
