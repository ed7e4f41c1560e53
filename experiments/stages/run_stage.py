"""Running a stage: build the network, train or consolidate it, write checkpoint and metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.checkpoints.checkpoint import UNSPECIFIED, Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import Algorithm
from graft.agents.training.backend import Evaluation, Partners, TrainJob, TrainResult, Unstable
from graft.agents.training.evaluate import Episodes, evaluate, nth_seed
from graft.agents.training.rollouts import Rollouts, collect, collect_random
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.errors import GraftError
from graft.experiments.config.backends import backend
from graft.experiments.plan.stage import Recall, Stage, StoppedEarly
from graft.experiments.stages.divergence import FACTOR, Diverged, divergences, in_words, keep_minibatch
from graft.experiments.stages.fault_checkpoint import checkpoint_on_faults
from graft.experiments.stages.meter import Meter
from graft.experiments.stages.metrics_log import MetricsCallback, MetricsLog
from graft.experiments.stages.partners import build_partners, save_partners
from graft.experiments.stages.resume import WHOLE, Leg, Resumption, prepare
from graft.experiments.stages.work import Work, latency, work_of
from graft.experiments.store.provenance import provenance
from graft.experiments.store.records import (
    COST,
    DIVERGED,
    FAULT_CHECKPOINT,
    RECALL_SECONDS,
    RESUMED,
    STARTS,
    Store,
    write_json,
)
from graft.transfer.method import TransferMethod
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
"""States on which diagnostics are measured, and the number of environments that they are from."""

ROLLOUT_ENVS = 64
"""Environments in the batch that plays a task before it is consolidated: each plays one whole episode or more."""

CLEARLY = 3.0
"""Standard errors by which a start has to be better: a carried policy that is hardly better than none trains badly."""

OTHER_LEVELS = 100_000
"""Beyond every number that an evaluation's own levels have (`nth_seed`)."""

NOT_TRAINED = TrainResult(0, 0.0, [])


class Paused(StoppedEarly):
    """A leg of a training has ended. ``returns``: of episodes that are the same for all methods (`_start_episodes`).

    ``episode_steps``: env steps that they took, which are no part of ``env_steps``.
    """

    def __init__(self, env_steps: int, episodes: Episodes) -> None:
        super().__init__(f"paused at {env_steps:,} env steps")
        self.env_steps, self.returns, self.episode_steps = env_steps, episodes.returns, int(episodes.lengths.sum())


class Outcome(NamedTuple):
    """The network and method state that a stage ends with, the heads of its tasks, and the result of its training.

    ``before``: evaluations on recall tasks before training. ``partners``: policies that were trained with it.
    ``starts``: mean returns before training of what the method could start from (`alternatives`), and which it took.
    ``work``: what its training computed.
    """

    session: TransferSession
    heads: Heads
    result: TrainResult
    before: tuple[Mapping[str, Any], ...] = ()
    partners: Partners | None = None
    starts: Mapping[str, Any] = {}
    work: Work = Work()


def run_stage(
    stage: Stage,
    store: Store,
    progress: MetricsCallback,
    workers: int = 1,
    note: Callable[[str], None] = lambda _: None,
    leg: Leg = WHOLE,
) -> None:
    """Run a stage from its start to its record; the stages that it depends on are in ``store``.

    Where its training diverges, it begins again at a smaller learning rate, `Stage.divergence_retries` times at most.

    Args:
        workers: processes that environments are spread over in training (`envs.make`); results do not depend on it.
        note: called with sentences for the user: why a stopped stage starts over, where one goes on with fresh
            episodes, or a method's remarks at the end.
        leg: what of its training is run now; the next call goes on from there.
    Raises:
        GraftError: the source's checkpoint is damaged, or does not fit the task.
        Diverged: its training diverged, in all its tries.
        Paused: the leg ended before the stage.
    """
    folder = store.folder(stage.id)
    # Killed before the last was recorded.
    for extra in divergences(folder)[stage.divergence_retries :]:
        (folder / extra["file"]).unlink()
    spent: dict[str, float] = {}
    while True:
        try:
            return _try(stage, store, progress, workers, note, spent, leg)
        except Unstable as error:
            known = divergences(folder)
            if error.env_steps is None or len(known) > stage.divergence_retries or not has_rate(stage.algorithm):
                raise Diverged(in_words(folder, error), known) from error
            note(
                f"Note: {stage.label} diverged after {error.env_steps:,} env steps, and begins again at "
                f"{FACTOR:g} of the learning rate, try {len(known) + 1} of {stage.divergence_retries + 1}."
            )


def has_rate(algorithm: Algorithm) -> bool:
    """Whether it has a learning rate, as all but some algorithms of one's own."""
    return hasattr(algorithm, "learning_rate")


def _try(
    stage: Stage,
    store: Store,
    progress: MetricsCallback,
    workers: int,
    note: Callable[[str], None],
    spent: dict[str, float],
    leg: Leg,
) -> None:
    """``spent``: by tries before this one; where this one diverges, what it took is added."""
    resumption = prepare(stage, store)
    resumption.leg = leg
    if spent:
        resumption.meter = Meter(spent)
    try:
        _train(stage, store, progress, workers, note, resumption)
    except Unstable:
        spent |= resumption.meter.spent()
        raise


def _train(
    stage: Stage,
    store: Store,
    progress: MetricsCallback,
    workers: int,
    note: Callable[[str], None],
    resumption: Resumption,
) -> None:
    if resumption.refusal:
        note(f"Note: {stage.label} starts over: {resumption.refusal}.")
    source, folder = load_source(stage, store), store.folder(stage.id)
    with MetricsLog(folder, stage, progress, resumption.possible, note) as log:
        run = _StageRun(stage, source, folder, log, resumption, workers, note)
        outcome = run.consolidate() if stage.kind == "consolidate" else run.train()
        start = time.perf_counter()
        with run.checkpoint_on_faults(lambda _: outcome):
            evaluations = [run.evaluate(outcome, recall) for recall in stage.recall]
        if evaluations:
            returns = {f"recall/{entry['task']}": entry["return_mean"] for entry in evaluations}
            log(outcome.result.env_steps, {**returns, RECALL_SECONDS: round(time.perf_counter() - start, 3)})
    checkpoint = run.checkpoint(outcome)
    store.check_holder(stage.id)
    save_partners(stage, outcome.partners, folder, checkpoint, outcome.session)
    store.finish(
        stage,
        env_steps=outcome.result.env_steps,
        seconds=round(outcome.result.seconds, 2),
        checkpoint=checkpoint.save(folder / "checkpoint"),
        recall=evaluations,
        **({"recall_before": outcome.before} if outcome.before else {}),
        size=_size(stage, outcome),
        **{COST: _cost(stage, outcome, resumption)},
        **_entry("return_means", outcome.result.final_means),
        **_entry("faults", outcome.result.faults),
        **_entry(STARTS, outcome.starts),
        **_diverged(folder),
        **_clipped(outcome.result),
        **_resumed(outcome.result),
    )


def best_start(starts: Mapping[str, NDArray[np.float64]]) -> str:
    """Which of several networks to train, by the returns of their episodes before training: that with the highest mean,
    but the first of them where the means differ by fewer than `CLEARLY` standard errors.
    """
    first, best = next(iter(starts)), max(starts, key=lambda name: float(starts[name].mean()))
    gain = starts[best].mean() - starts[first].mean()
    error = np.sqrt(sum(starts[name].var(ddof=1) / len(starts[name]) for name in (first, best)))
    return best if gain > CLEARLY * error else first  # of one episode each the error is not a number


def load_source(stage: Stage, store: Store) -> Checkpoint | None:
    if stage.source_folder is not None:
        loaded = Checkpoint.load(stage.source_folder)
        if loaded.id != stage.source:
            raise GraftError(f"The checkpoint in {stage.source_folder} was replaced since the experiment began.")
        return with_values_scaled(inherited(loaded, stage.method), stage.algorithm.reward_scale)
    if stage.source is None:
        return None
    return with_values_scaled(store.checkpoint(stage.source), stage.algorithm.reward_scale)


def with_values_scaled(source: Checkpoint, reward_scale: float) -> Checkpoint:
    """``source`` with values for rewards of this scale; its own are of the rewards that its algorithm saw.

    Values are those of the value head, and the Q values of a ``greedy`` policy. SAC's critics stay as they are.
    Raises GraftError as `reward_scale_of`.
    """
    seen = reward_scale_of(source)
    if seen == reward_scale:
        return source
    head = "policy" if source.network.distribution == "greedy" else "value"
    factors = dict.fromkeys((f"{head}.out.weight", f"{head}.out.bias"), reward_scale / seen)
    return replace(source, tensors={name: t * factors.get(name, 1) for name, t in source.tensors.items()})


def reward_scale_of(source: Checkpoint) -> float:
    """Of the rewards that its values are of; raises GraftError where its record has no number for it."""
    record: Any = source.record.get("stage") or {}
    algorithm = record.get("algorithm") if isinstance(record, dict) else None
    seen = algorithm.get("reward_scale", 1.0) if isinstance(algorithm, dict) else 1.0
    if not isinstance(seen, int | float) or not 0 < seen < math.inf:
        raise GraftError(f"The source's record has reward_scale {seen!r}; it is a number above 0.")
    return float(seen)


class _StageRun(NamedTuple):
    """A stage while it runs."""

    stage: Stage
    source: Checkpoint | None
    folder: Path
    log: MetricsLog
    resumption: Resumption
    workers: int
    note: Callable[[str], None]

    def train(self) -> Outcome:
        stage, source = self.stage, self.source
        weights_seed, _ = stage.random_seeds()
        session, starts = self._begin(weights_seed)
        if self.resumption.leg.until == 0:
            with self.checkpoint_on_faults(lambda _: Outcome(session, {}, NOT_TRAINED)):
                raise Paused(0, self._start_episodes(session.network))
        if stage.method is not None:
            with self.checkpoint_on_faults(lambda _: Outcome(session, {}, NOT_TRAINED)):
                session.probe = self._probe(session.network, weights_seed)
        if session.report is not None:
            write_json(self.folder / "transplant.json", session.report.to_json())
            self.log.text("transplant", session.report.markdown())
        before: tuple[Mapping[str, Any], ...] = ()
        partners = build_partners(stage, session.network)

        def outcome(result: TrainResult) -> Outcome:
            finished, archive = session.finish(), archive_of(source)
            heads = with_task(archive, finished.network, tasks_learned(archive)) if archive else {}
            return Outcome(finished, heads, result, before, partners, starts)

        with self.checkpoint_on_faults(outcome):
            before = tuple(self.evaluate(outcome(NOT_TRAINED), recall) for recall in stage.recall if recall.before)
            budget = self.resumption.leg.budget or stage.budget
            result = self._backend_train(session, budget, stage.evaluation, partners)
        for remark in session.method.remarks(session.state):
            self.note(f"Warning: {stage.label}: {remark}")
        self.log.finish()
        made = outcome(result)
        return made._replace(work=work_of(stage, session, result.env_steps, self.note))

    def _begin(self, seed: int) -> tuple[TransferSession, dict[str, Any]]:
        """The session, and where the method has several `alternatives`, the mean return that each starts with."""
        stage, source = self.stage, self.source
        possible: Mapping[str, TransferMethod | None] = {}
        if stage.method is not None and source is not None:
            possible = stage.method.alternatives(source, stage.schemas, stage.network)
        if known := self.resumption.starts:  # of what the snapshot is of
            possible = {known["taken"]: possible[known["taken"]]}
        sessions = {
            name: TransferSession.begin(
                method, source, stage.schemas, stage.network, seed, stage.algorithm.keeps_transitions
            )
            for name, method in (possible or {"": stage.method}).items()
        }
        first = next(iter(sessions.values()))
        if len(sessions) == 1:
            return first, known
        with self.checkpoint_on_faults(lambda _: Outcome(first, {}, NOT_TRAINED)):
            starts = {name: self._start_episodes(session.network).returns for name, session in sessions.items()}
        means = {name: float(returns.mean()) for name, returns in starts.items()}
        self.resumption.starts = {"taken": best_start(starts), "return_means": means}
        return sessions[self.resumption.starts["taken"]], self.resumption.starts

    def _start_episodes(self, network: PolicyNetwork) -> Episodes:
        """Of a network before training or in a race, on other levels than those of its training and evaluations."""
        seed = nth_seed(self.stage.random_seeds()[0], OTHER_LEVELS * self.resumption.leg.levels)
        return self._episodes(network, self.stage.task, self.stage.evaluation.count(last=True), seed)[0]

    def _episodes(self, network: PolicyNetwork, task: Task, count: int, seed: int) -> tuple[Episodes, dict[str, float]]:
        """Outcomes of ``count`` episodes, and the mean return of each part of the task."""
        plan = self.stage.evaluation
        env = make(task, plan.num_envs, seed, observation=network.schemas.observation)
        try:
            generator = _generator(network, seed)
            episodes = evaluate(network, env, count, generator, plan.deterministic, plan.max_steps, seed)
            return episodes, episodes.means(env.groups)
        finally:
            env.close()

    def consolidate(self) -> Outcome:
        """What the method does after a task was learned, before the next one."""
        stage, source, position = self.stage, self.source, self.stage.position
        assert stage.method is not None
        assert source is not None
        assert position is not None
        method, start, session = stage.method, time.perf_counter(), TransferSession.of(stage.method, source)
        steps = session.consolidate(self._rollouts, position)
        if method.overrides("consolidate"):
            self.log.report_steps(steps)
        seconds = time.perf_counter() - start

        def outcome(result: TrainResult) -> Outcome:
            heads = with_task(archive_of(source), session.network, position.task)
            total = result._replace(env_steps=steps + result.env_steps, seconds=seconds + result.seconds)
            return Outcome(session, heads, total)

        if not method.retraining:
            return outcome(NOT_TRAINED)
        with self.checkpoint_on_faults(outcome):
            evaluation = replace(stage.evaluation, every=method.retraining)
            result = self._backend_train(session, method.retraining, evaluation)
        made = outcome(result)
        return made._replace(work=work_of(stage, session, result.env_steps, self.note))

    def checkpoint_on_faults(self, outcome: Callable[[TrainResult], Outcome]) -> AbstractContextManager[None]:
        """Where environments fail too often, ``outcome`` of the training so far is saved with its partners."""

        def save(result: TrainResult, folder: Path) -> Checkpoint:
            made = outcome(result)
            checkpoint = self.checkpoint(made)
            checkpoint.save(folder)
            save_partners(self.stage, made.partners, folder, checkpoint, made.session)
            return checkpoint

        return checkpoint_on_faults(self.folder / FAULT_CHECKPOINT, save)

    def _backend_train(
        self, session: TransferSession, budget: int, evaluation: Evaluation, partners: Partners | None = None
    ) -> TrainResult:
        stage, algorithm, rate = self.stage, self._algorithm(session), 0.0
        shown = schemas(stage.task).observation.plain.names
        for network in session.network.modules():
            if isinstance(network, PolicyNetwork):
                network.encoder.show_only(shown)

        def pause(env_steps: int) -> None:
            raise Paused(env_steps, self._start_episodes(session.network))

        if has_rate(algorithm):
            rate = cast(Any, algorithm).learning_rate * FACTOR ** len(divergences(self.folder))
            algorithm = replace(cast(Any, algorithm), learning_rate=rate)
        job = TrainJob(
            network=session.network,
            task=stage.task,
            algorithm=algorithm,
            budget=budget,
            seed=stage.random_seeds()[1],
            record=self.log,
            evaluation=evaluation,
            hooks=session.hooks(),
            snapshots=self.resumption.snapshots(self.log, session, self._note_resumed, self._note_fresh, pause),
            workers=self.workers,
            resources=stage.resources,
            partners=partners,
            critics=session.critics,
            transitions=session.transitions,
        )
        try:
            return backend(stage.backend).train(job)
        except Unstable as error:
            self.resumption.check_holder()
            keep_minibatch(self.folder, error, rate)
            raise

    def _note_resumed(self, env_steps: int) -> None:
        self.note(f"goes on  {self.stage.label} from {env_steps:,} env steps, its latest snapshot")

    def _algorithm(self, session: TransferSession) -> Algorithm:
        """The stage's, with the learning rate that the method allows it where heads were carried.

        Retraining after a transfer goes on at the transfer's.
        """
        limit, algorithm = session.method.learning_rate_limit, cast(Any, self.stage.algorithm)
        transferred = session.report is not None
        if self.stage.kind == "consolidate" and self.source is not None:
            before = self.source.record
            transferred = before.get("transplant") is not None and before.get(STARTS, {}).get("taken") != "fresh"
        if limit is None or not transferred or not has_rate(algorithm) or algorithm.learning_rate <= limit:
            return self.stage.algorithm
        return cast(Algorithm, replace(algorithm, learning_rate=limit))

    def _note_fresh(self, env_steps: int) -> None:
        self.note(
            f"Note: {self.stage.label} has fresh episodes from {env_steps:,} env steps on, as the state of its "
            f"environments cannot be saved."
        )

    def _probe(self, network: PolicyNetwork, seed: int) -> Probe:
        """Measures ``network`` on states of a random player on the target, over whole episodes.

        Features are compared with those of the initial network; with the source's own where the method starts from
        fresh weights and both tasks have the same observations.
        """
        env = make(self.stage.task, PROBE_ENVS, seed, observation=network.schemas.observation)
        try:
            states = collect_random(env, PROBE_STATES, seed)
        finally:
            env.close()
        assert self.stage.method is not None
        fresh = self.source is None or "fresh_weights" in self.stage.method.words()
        reference = None
        if self.source is not None and fresh:
            same = self.source.schemas.observation == network.schemas.observation
            reference = self.source.build() if same else None
        return Probe(network, states, reference, audit=not fresh)

    def _rollouts(self, network: PolicyNetwork, states: int, unroll: int) -> Rollouts:
        (seed, _), learner = self.stage.random_seeds(), self.stage.algorithm
        env = make(self.stage.task, ROLLOUT_ENVS, seed, observation=network.schemas.observation)
        try:
            generator = _generator(network, seed)
            return collect(network, env, states, generator, unroll, learner.gamma, learner.reward_scale)
        finally:
            env.close()

    def evaluate(self, outcome: Outcome, recall: Recall) -> dict[str, Any]:
        """Mean return of the stage's network on a task that it learned, and what else its record holds."""
        stage, index, task = self.stage, recall.index, recall.task
        assert stage.method is not None
        view = outcome.session.view(index)
        heads = heads_of(view) if stage.method.shares_heads else of_task(outcome.heads, index)
        network = serving(view, heads, schemas(task))
        episodes, means = self._episodes(network, task, stage.recall_episodes, stage.recall_seed(task))
        entry = {"index": index, "task": str(task), "return_mean": float(episodes.returns.mean())}
        return entry | {"episodes": len(episodes.returns), **_entry("return_means", means)}

    def checkpoint(self, outcome: Outcome) -> Checkpoint:
        """Of the stage's network, not yet written."""
        stage, source, session, result = self.stage, self.source, outcome.session, outcome.result
        returns = torch.tensor(result.final_returns, dtype=torch.float64)
        half_width = 1.96 * float(returns.std()) / len(returns) ** 0.5 if len(returns) > 1 else None
        mean = float(returns.mean()) if len(returns) else None
        record = {
            "stage": stage.to_json(),
            "random_seeds": list(stage.random_seeds()),
            "env_steps": result.env_steps,
            "evaluation": {"episodes": len(returns), "return_mean": mean, "ci95": half_width}
            | _entry("return_means", result.final_means),
            **_entry("faults", result.faults),
            **_entry(STARTS, outcome.starts),
            **_diverged(self.folder),
            **_clipped(result),
            **_resumed(result),
            "transplant": None if session.report is None else session.report.summary(),
            "licence": stage.licence or UNSPECIFIED,
            **({"licence_overridden": True} if stage.licence_overridden else {}),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **provenance(),
        }
        lineage = () if source is None else (str(source.id), *source.lineage)
        return session.checkpoint(stage.task, {HEADS: outcome.heads}, lineage=lineage, record=record)


def _generator(network: PolicyNetwork, seed: int) -> torch.Generator:
    return torch.Generator(next(network.parameters()).device).manual_seed(seed)


def _entry(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` under ``name``, for a record; nothing where there are none."""
    return {name: dict(values)} if values else {}


def _diverged(folder: Path) -> dict[str, Any]:
    """Where earlier tries diverged, and at which learning rates, for a record; nothing where none did."""
    known = divergences(folder)
    return {DIVERGED: known} if known else {}


def _clipped(result: TrainResult) -> dict[str, Any]:
    """How many observations were clipped to their bounds, for a record; nothing where none were."""
    count, first = result.clipped
    return {"clipped": {"observations": count, "first": first}} if count else {}


def _resumed(result: TrainResult) -> dict[str, Any]:
    """How often training was resumed with fresh episodes, and when, for a record; nothing where it never was."""
    steps = list(result.fresh_at)
    return {RESUMED: {"count": len(steps), "env_steps": steps}} if steps else {}


def _cost(stage: Stage, outcome: Outcome, resumption: Resumption) -> dict[str, float | None]:
    """What the stage took, all its attempts that it went on from together."""
    spent, asked, seconds = resumption.meter.spent(), stage.resources, outcome.result.seconds
    others = asked.num_env_runners * asked.num_cpus_per_env_runner + asked.num_learners
    spent["core_seconds"] = round(spent["core_seconds"] + others * seconds, 3)
    local = float(outcome.session.network.policy.out.weight.device.type == "cuda")
    gpus = asked.num_gpus_per_learner * max(1, asked.num_learners) or local
    return {
        **spent,
        "gpu_seconds": round(gpus * seconds, 3),
        **outcome.work._asdict(),
        "inference_ms": latency(outcome.session.network),
    }


def _size(stage: Stage, outcome: Outcome) -> dict[str, int]:
    """Parameters of the network, and bytes of the method's memory and the heads of other tasks."""
    kept = list(outcome.session.state.values())
    if stage.method is not None and not stage.method.shares_heads:
        kept += without(outcome.heads, tasks_learned(outcome.heads) - 1).values()
    return {
        "parameters": sum(p.numel() for p in outcome.session.network.parameters()),
        "bytes_beside": sum(t.numel() * t.element_size() for t in kept),
    }
