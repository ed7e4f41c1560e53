"""Training with Stable-Baselines3 in the calling process."""

from __future__ import annotations

import time
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from agents.backend import Evaluation, Hooks, Record, TrainResult
from agents.evaluate import evaluate
from agents.network import PolicyNetwork
from agents.sb3.algorithm import Algorithm
from agents.sb3.vec_env import BatchVecEnv
from envs.factory import make
from envs.task import Task, TaskVectorEnv

RENAMED = {
    "rollout/ep_rew_mean": "rollout/return_mean",
    "rollout/ep_len_mean": "rollout/length_mean",
    "time/fps": "time/env_steps_per_s",
}


class RecordWriter(KVWriter):
    """Sends what the library logs to a `Record`, under the tags that all backends share."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Keep ``train/*`` and the renamed tags; drop the library's other counters."""
        values = {RENAMED.get(k, k): float(v) for k, v in key_values.items() if k in RENAMED or k.startswith("train/")}
        if values:
            self._record(step, values)

    def close(self) -> None:
        """Nothing to close."""


class Supervisor(BaseCallback):
    """Between rollouts: evaluates when due, and moves the method's schedule on."""

    def __init__(
        self,
        network: PolicyNetwork,
        env: TaskVectorEnv,
        plan: Evaluation,
        budget: int,
        hooks: Hooks,
        record: Record,
        seed: int,
    ) -> None:
        super().__init__()
        self._network, self._env, self._plan = network, env, plan
        self._budget, self._hooks, self._record = budget, hooks, record
        self._generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        self._due = 0
        self.last_returns: list[float] = []

    def _evaluate(self) -> None:
        episodes = evaluate(self._network, self._env, self._plan.episodes, self._generator, self._plan.deterministic)
        self.last_returns = episodes.returns.tolist()
        self._record(
            self.num_timesteps,
            {
                "eval/return_mean": float(episodes.returns.mean()),
                "eval/length_mean": float(episodes.lengths.mean()),
            },
        )

    def _on_rollout_start(self) -> None:
        # The library keeps an update's metrics until the next rollout has ended; here they get the update's env step.
        self.model.logger.dump(self.model.num_timesteps)
        if self.model.num_timesteps >= self._due:
            self.num_timesteps = self.model.num_timesteps
            self._evaluate()
            self._due += self._plan.every
        if self._hooks.schedule is not None:
            self._hooks.schedule(self._network, self.model.num_timesteps / self._budget)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.model.logger.dump(self.num_timesteps)
        self._evaluate()


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
) -> TrainResult:
    """Train ``network`` on ``task``, in place.

    Args:
        budget: env steps; training ends after the rollout that reaches it.
        seed: of the environments, the action samples and the minibatches.
        record: receives metrics; evaluations come at least at 0 and at the last env step.
        hooks: what a transfer method does during training.
        device: a torch device; "auto" is the GPU where there is one.
    Raises:
        Unstable: training diverged.
        GraftError: the task cannot be made.
    """
    plan, hooks = evaluation or Evaluation(), hooks or Hooks()
    # Environment i is seeded with seed + i: the two batches are kept apart, and seeds must be far from each other.
    env = BatchVecEnv(make(task, algorithm.num_envs, seed))
    eval_env = make(task, plan.num_envs, seed + algorithm.num_envs)
    try:
        learner = algorithm.learner(network, env, seed % 2**32, hooks.gradients, device)
        learner.set_logger(Logger(None, [RecordWriter(record)]))
        supervisor = Supervisor(network, eval_env, plan, budget, hooks, record, seed)
        start = time.perf_counter()
        learner.learn(budget, callback=supervisor, log_interval=1)
        return TrainResult(learner.num_timesteps, time.perf_counter() - start, supervisor.last_returns)
    finally:
        env.close()
        eval_env.close()
