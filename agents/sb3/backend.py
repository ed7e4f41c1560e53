"""Training with Stable-Baselines3 in the calling process."""

from __future__ import annotations

import sys
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq

from agents.backend import Evaluation, Hooks, Record, Resources, TrainResult
from agents.keeper import Batch, Keeper, Randomness, savable
from agents.network import PolicyNetwork
from agents.normaliser import settle
from agents.rates import scale_rates
from agents.recent import Recent
from agents.sb3.algorithm import Algorithm
from agents.sb3.learner_state import Learner, network_optimizer
from agents.sb3.vec_env import BatchVecEnv
from agents.snapshot import Part, Snapshots
from agents.trials import Trials
from envs.factory import make
from envs.faults import TooManyFaults
from envs.task import Task

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
        self,
        network: PolicyNetwork,
        trials: Trials,
        budget: int,
        hooks: Hooks,
        record: Record,
        recent: Recent,
        keeper: Keeper,
    ) -> None:
        super().__init__()
        self._network, self._trials, self._budget = network, trials, budget
        self._hooks, self._record, self._recent, self._keeper = hooks, record, recent, keeper

    def _is_turn(self) -> bool:
        """Whether to log and move the schedule on: at every rollout, but those of replay learners are a few steps."""
        if not isinstance(self.model, OffPolicyAlgorithm):
            return True
        assert isinstance(self.model.train_freq, TrainFreq)
        period = max(1, min(PULSE, self._budget // 100))
        before = self.model.num_timesteps - self.model.n_envs * self.model.train_freq.frequency
        return before // period < self.model.num_timesteps // period

    def _log(self) -> None:
        # The library keeps an update's metrics until the next rollout has ended; here they get the update's env step.
        if isinstance(self.model, OffPolicyAlgorithm) and self.model.num_timesteps:
            self.model.dump_logs()
        else:
            self.model.logger.dump(self.model.num_timesteps)
        if found := self._trials.new_faults():
            self._record(self.model.num_timesteps, found)

    def _on_rollout_start(self) -> None:
        settle(self.model.policy)
        self._keeper.visit(self.model.num_timesteps)
        due = self._trials.due(self.model.num_timesteps)
        if not due and not self._is_turn():
            return
        self._log()
        if due:
            self._trials.evaluate(self.model.num_timesteps)
        if self._hooks.schedule is not None:
            self._hooks.schedule(self._network, self.model.num_timesteps / self._budget)

    def _on_rollout_end(self) -> None:
        for name, mean in self._recent.means().items():
            self.logger.record(RETURNS + name, mean)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        settle(self.model.policy)
        self._log()
        self._trials.evaluate(self.model.num_timesteps)


def train(
    network: PolicyNetwork,
    task: Task,
    algorithm: Algorithm,
    budget: int,
    seed: int,
    record: Record,
    evaluation: Evaluation | None = None,
    hooks: Hooks | None = None,
    device: str = "auto",
    snapshots: Snapshots | None = None,
    workers: int = 1,
    resources: Resources | None = None,
) -> TrainResult:
    """Train ``network`` on ``task``, in place.

    Args:
        budget: env steps; training ends after the rollout that reaches it.
        seed: of the environments, the action samples and the minibatches.
        record: receives metrics; evaluations come at least at 0 and at the last env step.
        hooks: what a transfer method does during training.
        device: a torch device; "auto" is the GPU where there is one.
        snapshots: where to keep one; training goes on from the one that is there, and ends as if it had never been
            stopped. None are taken where an environment's state can't be saved (all but the built-in games).
        workers: processes that each of both batches is spread over, where that can pay (`envs.make`).
        resources: of more than this process there is no use here; whether a GPU is used, ``device`` says.
    Raises:
        Unstable: training diverged.
        TooManyFaults: environments failed more often than the task allows; ``network`` is as trained as it was then.
        GraftError: the task cannot be made, or the algorithm cannot play its actions or this network.
    """
    algorithm.check_network(network)
    plan, hooks = evaluation or Evaluation(), hooks or Hooks()
    # Environment i is seeded with seed + i: the two batches are kept apart, and seeds must be far from each other.
    observation = network.schemas.observation
    batch = make(task, algorithm.num_envs, seed, observation=observation, workers=workers)
    env = BatchVecEnv(batch, algorithm.reward_scale)
    eval_env = make(task, plan.num_envs, seed + algorithm.num_envs, observation=observation, workers=workers)
    try:
        learner = algorithm.learner(network, env, seed % 2**32, hooks.gradients, device)
        learner.set_logger(Logger(None, [RecordWriter(record)]))
        scale_rates(network_optimizer(learner), network, hooks.rates)
        trials = Trials(network, eval_env, plan, hooks, record, seed, lambda: [batch.faults])
        parts: dict[str, Part] | None = None
        if savable(batch) and savable(eval_env):
            parts = {
                "learner": Learner(learner),
                "random": Randomness(learner.device),
                "training": Batch(env),
                "evaluation": Batch(eval_env),
                "trials": trials,
            }
        keeper = Keeper(snapshots, parts)
        keeper.resume()
        _learn(learner, budget, Supervisor(network, trials, budget, hooks, record, env.recent, keeper), trials, record)
        return trials.result(learner.num_timesteps, keeper.seconds)
    finally:
        env.close()
        eval_env.close()


def _learn(learner: BaseAlgorithm, budget: int, supervisor: Supervisor, trials: Trials, record: Record) -> None:
    # A replay learner logs at episodes' ends, several at once; here the supervisor tells it when.
    interval = sys.maxsize if isinstance(learner, OffPolicyAlgorithm) else 1
    taken = learner.num_timesteps
    try:
        learner.learn(budget - taken, callback=supervisor, log_interval=interval, reset_num_timesteps=not taken)
    except TooManyFaults as error:
        error.env_steps = learner.num_timesteps
        record(learner.num_timesteps, trials.faults().metrics())
        raise
