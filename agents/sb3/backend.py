"""Training with Stable-Baselines3 in the calling process."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq

from graft.agents.checkpoints.snapshot import Savable
from graft.agents.checkpoints.snapshotter import EnvState, RandomState, Snapshotter, steps_to_catch_up
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.networks.policy_network import PolicyNetwork, Unstable
from graft.agents.sb3.algorithm import Algorithm
from graft.agents.sb3.gradients import MethodGradients
from graft.agents.sb3.learner_state import SavableLearner, network_optimizer
from graft.agents.sb3.off_policy import OffPolicy, fill, latest_transitions
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Record, TrainJob, TrainResult
from graft.agents.training.critics import CriticState
from graft.agents.training.divergence import DivergenceCheck
from graft.agents.training.evaluate import eval_mode, nth_seed
from graft.agents.training.learning_rates import scale_rates
from graft.agents.training.memory import keep_freed_memory
from graft.agents.training.periodic_evaluation import PeriodicEvaluation, check_size, log_period, make_env
from graft.agents.training.recent_returns import RecentReturns
from graft.envs.core.faults import TooManyFaults

RENAMED = {
    "rollout/ep_rew_mean": "rollout/return_mean",
    "rollout/ep_len_mean": "rollout/length_mean",
    "time/fps": "time/env_steps_per_s",
}

RETURNS = "rollout/return_mean/"  # prefix of the tag of a part's latest training returns


class RecordWriter(KVWriter):
    """Sends the library's logs to a `Record`, under the tags of both backends; raises Unstable for a loss in them that
    is not finite.
    """

    def __init__(self, record: Record, divergence: DivergenceCheck) -> None:
        self._record, self._divergence = record, divergence

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Keep ``train/*``, renamed tags and parts' returns; drop other counters."""
        kept = {k: float(v) for k, v in key_values.items() if k in RENAMED or k.startswith(("train/", RETURNS))}
        self._divergence.check_losses(kept)
        if values := {RENAMED.get(k, k): v for k, v in kept.items()}:
            self._record(step, values)

    def close(self) -> None: ...


class TrainingCallback(BaseCallback):
    """Between rollouts: takes snapshots, evaluates when due, logs, and calls the method's schedule."""

    def __init__(
        self, job: TrainJob, evaluation: PeriodicEvaluation, recent: RecentReturns, snapshotter: Snapshotter
    ) -> None:
        super().__init__()
        self._job, self._evaluation, self._recent, self._snapshotter = job, evaluation, recent, snapshotter

    def _log_due(self) -> bool:
        """At every rollout, but those of replay learners are a few steps."""
        if not isinstance(self.model, OffPolicyAlgorithm):
            return True
        assert isinstance(self.model.train_freq, TrainFreq)
        period = log_period(self._job.budget)
        before = self.model.num_timesteps - self.model.n_envs * self.model.train_freq.frequency
        return before // period < self.model.num_timesteps // period

    def _log(self) -> None:
        # The library keeps an update's metrics until the next rollout has ended; here they get the update's env step.
        if isinstance(self.model, OffPolicyAlgorithm) and self.model.num_timesteps:
            self.model.dump_logs()
        else:
            self.model.logger.dump(self.model.num_timesteps)
        if faults := self._evaluation.new_faults():
            self._job.record(self.model.num_timesteps, faults)

    def _check_weights(self) -> None:
        assert isinstance(self.model, MethodGradients)
        self.model.divergence.check_weights(self.model.policy.parameters())

    def _on_rollout_start(self) -> None:
        commit_statistics(self.model.policy)
        self._snapshotter.maybe_save(self.model.num_timesteps)
        due = self._evaluation.due(self.model.num_timesteps)
        if not due and not self._log_due():
            return
        self._check_weights()
        self._log()
        if due:
            self._evaluation.evaluate(self.model.num_timesteps)
        if self._job.hooks.schedule is not None:
            self._job.hooks.schedule(self._job.network, self.model.num_timesteps / self._job.budget)

    def _on_rollout_end(self) -> None:
        for name, mean in self._recent.means().items():
            self.logger.record(RETURNS + name, mean)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        commit_statistics(self.model.policy)
        self._check_weights()
        self._log()
        self._evaluation.evaluate(self.model.num_timesteps)


def train(job: TrainJob) -> TrainResult:
    """Train ``job.network`` on ``job.task``, in this process and in place.

    Raises:
        Unstable: training diverged.
        TooManyFaults: environments failed more often than the task allows; the network is as trained as it was then.
        GraftError: the task cannot be made, or the algorithm cannot play its actions or this network.
    """
    network, algorithm = job.network, job.algorithm
    assert isinstance(algorithm, Algorithm), "an algorithm of this backend"
    algorithm.check_network(network)
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        batch = stack.enter_context(contextlib.closing(make_env(job, algorithm.num_envs, job.seed)))
        check_size(batch, algorithm.num_envs)
        levels = job.seed + algorithm.num_envs
        eval_env = stack.enter_context(contextlib.closing(make_env(job, job.evaluation.num_envs, levels)))
        env = BatchVecEnv(batch, algorithm.reward_scale)
        learner = algorithm.learner(network, env, job.seed % 2**32, job.hooks.gradients, job.device)
        assert isinstance(learner, MethodGradients)
        learner.set_logger(Logger(None, [RecordWriter(job.record, learner.divergence)]))
        scale_rates(network_optimizer(learner), network, job.hooks.rates)
        critics = _prepare_critics(learner, job)
        kept = algorithm.keep_transitions if isinstance(algorithm, OffPolicy) else 0
        if kept and job.transitions:
            fill(_buffer(learner), job.transitions, kept, algorithm.reward_scale)
        evaluation = PeriodicEvaluation(job, eval_env, levels, lambda: [batch.faults])
        parts: dict[str, Savable] = {
            "learner": SavableLearner(learner),
            "random": RandomState(learner.device),
            "training": EnvState(env),
            "trials": evaluation,
        }
        begin = None if batch.savable else partial(_begin_episodes, learner, env, network, job.seed)
        snapshotter = Snapshotter(job.snapshots, parts, begin)
        try:
            _learn(learner, job, evaluation, env.recent, snapshotter)
        finally:
            if critics is not None:
                job.critics.update(critics.save())
            if kept:
                job.transitions.update(latest_transitions(_buffer(learner), kept, algorithm.reward_scale))
        return evaluation.result(learner.num_timesteps, snapshotter.seconds)._replace(fresh_at=snapshotter.fresh_at)


def _buffer(learner: BaseAlgorithm) -> ReplayBuffer:
    assert isinstance(learner, OffPolicyAlgorithm)
    assert isinstance(learner.replay_buffer, ReplayBuffer)
    return learner.replay_buffer


def _begin_episodes(learner: BaseAlgorithm, env: BatchVecEnv, network: PolicyNetwork, seed: int, taken: int) -> None:
    """Fresh episodes of a training that goes on after ``taken`` env steps, played to where the old ones were.

    What the learner stored ends with complete transitions.
    """
    first, steps = nth_seed(seed, taken), steps_to_catch_up(env.lengths)
    dice = torch.Generator(learner.device).manual_seed(first)
    obs = env.reset(first)
    with eval_mode(network):
        for _ in range(steps):
            obs = env.step_played(network.act(obs, dice).cpu().numpy()).observations
    learner._last_obs = obs
    learner._last_episode_starts = env.lengths == 0


def _prepare_critics(learner: BaseAlgorithm, job: TrainJob) -> CriticState | None:
    """The learner's critics beside the network, filled with the job's where it has any; None without critics."""
    assert isinstance(learner, MethodGradients)
    learner.critic_warmup = job.hooks.critic_warmup
    critics = learner.critic_state()
    if critics is not None and job.critics:
        critics.load(job.critics)
        learner.critics_carried = True
    return critics


def _learn(
    learner: MethodGradients,
    job: TrainJob,
    evaluation: PeriodicEvaluation,
    recent: RecentReturns,
    snapshotter: Snapshotter,
) -> None:
    """Train from the latest snapshot, if there is one."""
    # A replay learner would log at ends of episodes, several at once; here the callback logs.
    interval = sys.maxsize if isinstance(learner, OffPolicyAlgorithm) else 1
    callback = TrainingCallback(job, evaluation, recent, snapshotter)
    try:
        snapshotter.resume()
        taken = learner.num_timesteps
        learner.learn(job.budget - taken, callback=callback, log_interval=interval, reset_num_timesteps=not taken)
    except TooManyFaults as error:
        error.env_steps = learner.num_timesteps
        job.record(learner.num_timesteps, evaluation.faults().metrics())
        raise
    except Unstable as error:
        error.env_steps = learner.num_timesteps
        error.batch = error.batch or learner.divergence.last()
        raise
