"""Periodic evaluation of a network during training, and the count of environment faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.training.backend import TrainJob, TrainResult
from graft.agents.training.evaluate import evaluate
from graft.envs.core.faults import Faults, sum_faults
from graft.envs.core.task import TaskVectorEnv
from graft.envs.factory import make
from graft.errors import GraftError

LOG_PERIOD = 1000

EVALUATION_SECONDS = "time/evaluation_s"
"""Tag of the seconds that a training's evaluations have taken so far, since it was started or resumed."""


def log_period(budget: int) -> int:
    """Env steps between two records, and calls of the schedule, of algorithms that update every few steps."""
    return max(1, min(LOG_PERIOD, budget // 100))


def make_env(job: TrainJob, num_envs: int, seed: int) -> TaskVectorEnv:
    """``num_envs`` environments of a training's task; number i is seeded with ``seed + i``."""
    return make(job.task, num_envs, seed, observation=job.network.schemas.observation, workers=job.workers)


def check_size(env: TaskVectorEnv, num_envs: int) -> None:
    """Raises GraftError where ``env``, of a training, has fewer than ``num_envs`` rows: its game has no more agents."""
    if env.num_envs < num_envs:
        raise GraftError(
            f"The game has {env.num_envs} agents, and a training in {num_envs} environments is asked for: "
            f"add agents to the scene, or set algorithm: {{num_envs: {env.num_envs}}}."
        )


class PeriodicEvaluation:
    """Evaluates a network when due, and records the results, new environment faults and the method's report.

    The levels and the action samples of an evaluation follow from its number, from 0, and the job's seed: whatever a
    network did before, all that are trained with this seed meet the same.

    Args:
        job: the training; its seed is that of the first evaluation's action samples.
        env: of the evaluation. seed: of its levels in the first.
        training_faults: returns the faults of the training environments.
    """

    def __init__(
        self, job: TrainJob, env: TaskVectorEnv, seed: int, training_faults: Callable[[], Iterable[Faults]]
    ) -> None:
        self._network, self._env, self._plan, self._budget = job.network, env, job.evaluation, job.budget
        self._report, self._record, self._training_faults = job.hooks.report, job.record, training_faults
        self._dice, self._levels, self._device = job.seed, seed, next(job.network.parameters()).device
        self._due = self._known_faults = 0
        self._earlier = Faults()  # before the training was resumed
        self._seconds = 0.0
        self._returns: list[float] = []
        self._means: dict[str, float] = {}

    def save(self) -> SavedState:
        found = self.faults()
        counts = {"kinds": dict(found), "clipped": found.clipped, "first": found.clipped_first}
        return SavedState({}, {"due": self._due, "known": self._known_faults, "faults": counts})

    def restore(self, saved: SavedState) -> None:
        self._due, self._known_faults, counts = (saved.values[name] for name in ("due", "known", "faults"))
        self._earlier.update(counts["kinds"])
        self._earlier.clipped, self._earlier.clipped_first = counts["clipped"], counts["first"]

    def due(self, env_steps: int) -> bool:
        return env_steps >= self._due

    def evaluate(self, env_steps: int) -> None:
        plan, number, start = self._plan, self._due // self._plan.every, time.perf_counter()
        generator = torch.Generator(self._device).manual_seed(self._dice)
        episodes = evaluate(
            self._network,
            self._env,
            plan.count(last=env_steps >= self._budget),
            generator,
            plan.deterministic,
            plan.max_steps,
            self._levels,
            number,
        )
        self._returns, self._means = episodes.returns.tolist(), episodes.means(self._env.groups)
        self._due += plan.every
        measured = self._report(self._network) if self._report is not None else {}
        self._seconds += time.perf_counter() - start
        took = {EVALUATION_SECONDS: round(self._seconds, 3)}
        self._record(env_steps, {**episodes.metrics(self._env.groups), **self.new_faults(), **measured, **took})

    def faults(self) -> Faults:
        """Of all environments, also before the training was resumed."""
        return sum_faults([self._earlier, *self._training_faults(), self._env.faults])

    def new_faults(self) -> dict[str, float]:
        """All faults and clipped observations so far as metrics, if there are new ones."""
        faults, before = self.faults(), self._known_faults
        self._known_faults = faults.total + faults.clipped
        return faults.metrics() if self._known_faults > before else {}

    def result(self, env_steps: int, seconds: float) -> TrainResult:
        found = self.faults()
        faults = {kind: count for kind, count in found.items() if count}
        clipped = found.clipped, found.clipped_first
        return TrainResult(env_steps, seconds, self._returns, self._means, faults, clipped)
