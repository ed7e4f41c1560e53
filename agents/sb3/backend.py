"""Training with Stable-Baselines3 in the calling process."""

from __future__ import annotations

import sys
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq

from graft.agents.checkpoints.snapshot import Savable
from graft.agents.checkpoints.snapshotter import EnvState, RandomState, Snapshotter
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.sb3.algorithm import Algorithm
from graft.agents.sb3.learner_state import SavableLearner, network_optimizer
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Record, TrainJob, TrainResult
from graft.agents.training.learning_rates import scale_rates
from graft.agents.training.periodic_evaluation import PeriodicEvaluation
from graft.agents.training.recent_returns import RecentReturns
from graft.envs.core.faults import TooManyFaults
from graft.envs.factory import make

RENAMED = {
    "rollout/ep_rew_mean": "rollout/return_mean",
    "rollout/ep_len_mean": "rollout/length_mean",
    "time/fps": "time/env_steps_per_s",
}

RETURNS = "rollout/return_mean/"
"""Tag of the latest training returns of a part of the batch, which its name follows."""

PULSE = 1000
"""Env steps, at most, between two logs, and two calls of the schedule, of a learner that updates more often."""


class RecordWriter(KVWriter):
    """Sends what the library logs to a `Record`, under the tags that all backends share."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Keep ``train/*``, the renamed tags and the parts' returns; drop the library's other counters."""
        values = {
            RENAMED.get(k, k): float(v)
            for k, v in key_values.items()
            if k in RENAMED or k.startswith(("train/", RETURNS))
        }
        if values:
            self._record(step, values)

    def close(self) -> None:
        """Nothing to close."""


class Supervisor(BaseCallback):
    """Between rollouts: evaluates when due, and moves the method's schedule on."""

    def __init__(
        self, job: TrainJob, trials: PeriodicEvaluation, recent: RecentReturns, snapshotter: Snapshotter
    ) -> None:
        super().__init__()
        self._job, self._trials, self._recent, self._snapshotter = job, trials, recent, snapshotter

    def _is_turn(self) -> bool:
        """Whether to log and move the schedule on: at every rollout, but those of replay learners are a few steps."""
        if not isinstance(self.model, OffPolicyAlgorithm):
            return True
        assert isinstance(self.model.train_freq, TrainFreq)
        period = max(1, min(PULSE, self._job.budget // 100))
        before = self.model.num_timesteps - self.model.n_envs * self.model.train_freq.frequency
        return before // period < self.model.num_timesteps // period

    def _log(self) -> None:
        # The library keeps an update's metrics until the next rollout has ended; here they get the update's env step.
        if isinstance(self.model, OffPolicyAlgorithm) and self.model.num_timesteps:
            self.model.dump_logs()
        else:
            self.model.logger.dump(self.model.num_timesteps)
        if found := self._trials.new_faults():
            self._job.record(self.model.num_timesteps, found)

    def _on_rollout_start(self) -> None:
        commit_statistics(self.model.policy)
        self._snapshotter.maybe_save(self.model.num_timesteps)
        due = self._trials.due(self.model.num_timesteps)
        if not due and not self._is_turn():
            return
        self._log()
        if due:
            self._trials.evaluate(self.model.num_timesteps)
        if self._job.hooks.schedule is not None:
            self._job.hooks.schedule(self._job.network, self.model.num_timesteps / self._job.budget)

    def _on_rollout_end(self) -> None:
        for name, mean in self._recent.means().items():
            self.logger.record(RETURNS + name, mean)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        commit_statistics(self.model.policy)
        self._log()
        self._trials.evaluate(self.model.num_timesteps)


def train(job: TrainJob) -> TrainResult:
    """Train ``job.network`` on ``job.task``, in this process and in place.

    Raises:
        Unstable: training diverged.
        TooManyFaults: environments failed more often than the task allows; the network is as trained as it was then.
        GraftError: the task cannot be made, or the algorithm cannot play its actions or this network.
    """
    network, task, algorithm, seed = job.network, job.task, job.algorithm, job.seed
    assert isinstance(algorithm, Algorithm), "an algorithm of this backend"
    algorithm.check_network(network)
    # Environment i is seeded with seed + i: the two batches are kept apart, and seeds must be far from each other.
    observation, workers = network.schemas.observation, job.workers
    batch = make(task, algorithm.num_envs, seed, observation=observation, workers=workers)
    env = BatchVecEnv(batch, algorithm.reward_scale)
    eval_env = make(task, job.evaluation.num_envs, seed + algorithm.num_envs, observation=observation, workers=workers)
    try:
        learner = algorithm.learner(network, env, seed % 2**32, job.hooks.gradients, job.device)
        learner.set_logger(Logger(None, [RecordWriter(job.record)]))
        scale_rates(network_optimizer(learner), network, job.hooks.rates)
        trials = PeriodicEvaluation(job, eval_env, lambda: [batch.faults])
        parts: dict[str, Savable] | None = None
        if batch.savable and eval_env.savable:
            parts = {
                "learner": SavableLearner(learner),
                "random": RandomState(learner.device),
                "training": EnvState(env),
                "evaluation": EnvState(eval_env),
                "trials": trials,
            }
        snapshotter = Snapshotter(job.snapshots, parts)
        snapshotter.resume()
        _learn(learner, job, Supervisor(job, trials, env.recent, snapshotter), trials)
        return trials.result(learner.num_timesteps, snapshotter.seconds)
    finally:
        env.close()
        eval_env.close()


def _learn(learner: BaseAlgorithm, job: TrainJob, supervisor: Supervisor, trials: PeriodicEvaluation) -> None:
    # A replay learner logs at episodes' ends, several at once; here the supervisor tells it when.
    interval = sys.maxsize if isinstance(learner, OffPolicyAlgorithm) else 1
    taken = learner.num_timesteps
    try:
        learner.learn(job.budget - taken, callback=supervisor, log_interval=interval, reset_num_timesteps=not taken)
    except TooManyFaults as error:
        error.env_steps = learner.num_timesteps
        job.record(learner.num_timesteps, trials.faults().metrics())
        raise
