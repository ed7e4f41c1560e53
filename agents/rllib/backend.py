"""Training with RLlib; learners and runners are in this process or in others, also on a cluster."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ray.exceptions import RayTaskError
from ray.rllib.core import DEFAULT_MODULE_ID

from graft.agents.checkpoints.learner_state import arrays, tensors
from graft.agents.checkpoints.snapshot import Savable, SavedState
from graft.agents.checkpoints.snapshotter import RandomState, Snapshotter
from graft.agents.networks.policy_network import PolicyNetwork, Unstable
from graft.agents.ray_session.session import join
from graft.agents.rllib.algorithm import Algorithm
from graft.agents.rllib.learner import HOOKS
from graft.agents.rllib.module import Reference, module_spec, squad_spec
from graft.agents.rllib.remote_training import RemoteTraining
from graft.agents.rllib.runner import Fragment, RunnerEnvConfig
from graft.agents.rllib.squad_runner import SquadRunner, check, check_algorithm
from graft.agents.training.backend import Hooks, Partners, Resources, TrainJob, TrainResult
from graft.agents.training.evaluate import nth_seed
from graft.agents.training.periodic_evaluation import PeriodicEvaluation, make_env
from graft.agents.training.recent_returns import WINDOW, RecentReturns
from graft.envs.core.faults import TooManyFaults
from graft.envs.core.task import Groups, Task, TaskVectorEnv
from graft.errors import GraftError


class RolloutMetrics:
    """Mean returns and lengths of the latest training episodes: of the batch, of its parts, and of partner policies."""

    def __init__(self, groups: Groups | None) -> None:
        self._returns: deque[float] = deque(maxlen=WINDOW)
        self._lengths: deque[float] = deque(maxlen=WINDOW)
        self._recent = RecentReturns(groups)
        self._partners: dict[str, deque[float]] = {}

    def save(self) -> SavedState:
        partners = {policy: list(returns) for policy, returns in self._partners.items()}
        values = {"returns": list(self._returns), "lengths": list(self._lengths), "partners": partners}
        return SavedState(tensors(self._recent.save_state()), values)

    def restore(self, saved: SavedState) -> None:
        self._recent.restore_state(arrays(saved.tensors))
        self._returns.extend(saved.values["returns"])
        self._lengths.extend(saved.values["lengths"])
        for policy, returns in saved.values["partners"].items():
            self._partners[policy] = deque(returns, maxlen=WINDOW)

    def add(self, fragments: tuple[Fragment, ...]) -> None:
        first = 0
        for fragment in fragments:
            for value, length, row in zip(*fragment.ended, strict=True):
                self._returns.append(float(value))
                self._lengths.append(float(length))
                self._recent.add(first + int(row), value)
            first += fragment.rows
            for policy, other in fragment.others.items():
                self._partners.setdefault(policy, deque(maxlen=WINDOW)).extend(other.ended.returns.tolist())

    def means(self) -> dict[str, float]:
        """By tag; none of what has not ended an episode."""
        latest = {"rollout/return_mean": self._returns, "rollout/length_mean": self._lengths}
        parts = {f"rollout/return_mean/{name}": value for name, value in self._recent.means().items()}
        partners = {f"rollout/return_mean/{policy}": returns for policy, returns in self._partners.items()}
        return {
            **{tag: float(np.mean(values)) for tag, values in latest.items() if values},
            **parts,
            **{tag: float(np.mean(values)) for tag, values in partners.items() if values},
        }


def build_algorithm(
    algorithm: Algorithm,
    network: PolicyNetwork,
    runner_env: RunnerEnvConfig,
    hooks: Hooks,
    seed: int,
    resources: Resources,
    partners: Mapping[str, PolicyNetwork] | None = None,
    budget: int | None = None,
) -> Any:
    """RLlib's algorithm, ready to train; ``partners``: networks of the partner policies; ``budget``: env steps."""
    runners, spec = max(1, resources.num_env_runners), module_spec(network)
    spec.module_class = algorithm.module
    if algorithm.num_envs % runners:
        raise GraftError(
            f"num_envs={algorithm.num_envs} can't be shared out evenly among {runners} env runners; give a multiple."
        )
    config = algorithm.config(resources.num_learners, budget)
    config.environment(
        "graft",  # RLlib wants a name; runners make environments from env_config
        env_config={"runner_env": runner_env},
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        disable_env_checking=True,
    )
    config.rl_module(rl_module_spec=spec)
    if runner_env.plays is not None:
        _as_squad(config, network, partners or {})
    config.env_runners(
        num_env_runners=resources.num_env_runners,
        num_envs_per_env_runner=algorithm.num_envs // runners,
        num_cpus_per_env_runner=resources.num_cpus_per_env_runner,
        create_local_env_runner=not resources.num_env_runners,
    )
    config.learners(
        num_learners=resources.num_learners,
        num_gpus_per_learner=resources.num_gpus_per_learner,
        learner_config_dict={HOOKS: Reference(replace(hooks, report=None))},
    )
    # Restarts would hide an environment's bugs; Graft's own fault rules restart environments.
    config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=False)
    # Keeps gradients that are not finite, which the next pass reports; RLlib would set them to zero.
    config.framework(torch_skip_nan_gradients=True)
    config.debugging(seed=seed % 2**31, log_level="ERROR")
    return config.build_algo()


def _as_squad(config: Any, network: PolicyNetwork, partners: Mapping[str, PolicyNetwork]) -> None:
    """Train several policies; the runners map agents to policies."""
    config.rl_module(rl_module_spec=squad_spec(network, partners))
    config.multi_agent(policies={DEFAULT_MODULE_ID, *partners}, policy_mapping_fn=lambda *_, **__: DEFAULT_MODULE_ID)
    config.env_runners(
        env_runner_cls=SquadRunner,
        add_default_connectors_to_env_to_module_pipeline=False,
        add_default_connectors_to_module_to_env_pipeline=False,
    )


def _plays(task: Task, network: PolicyNetwork, algorithm: Algorithm, partners: Partners) -> dict[str, str]:
    """Team -> RLlib's module; ``network`` plays the task's team."""
    check_algorithm(algorithm)
    mine = partners.plays[str(task.kwargs["team"])]
    plays = {team: DEFAULT_MODULE_ID if policy == mine else policy for team, policy in partners.plays.items()}
    check(task, plays, {DEFAULT_MODULE_ID: network, **partners.networks})
    return plays


def train(job: TrainJob) -> TrainResult:
    """Train ``job.network`` on ``job.task``, in place.

    The Ray that this process is connected to is used; where it is connected to none, one is started on this machine.

    Raises:
        Unstable: training diverged.
        TooManyFaults: environments failed more often than the task allows; the network is as trained as it was then.
        GraftError: the task cannot be made, the algorithm cannot play its actions or this network, or what the cluster
            does not have is asked for.
    """
    network, task, algorithm, seed = job.network, job.task, job.algorithm, job.seed
    assert isinstance(algorithm, Algorithm), "an algorithm of this backend"
    algorithm.check_network(network)
    join(job.resources)
    plays = None if job.partners is None else _plays(task, network, algorithm, job.partners)
    runner_env = RunnerEnvConfig(task, network.schemas.observation, seed, algorithm.reward_scale, job.workers, plays)
    partners = {} if job.partners is None else dict(job.partners.networks)
    with contextlib.ExitStack() as stack:
        levels = seed + algorithm.num_envs
        eval_env = stack.enter_context(contextlib.closing(make_env(job, job.evaluation.num_envs, levels)))
        built = build_algorithm(algorithm, network, runner_env, job.hooks, seed, job.resources, partners, job.budget)
        stack.callback(built.stop)
        return _run(RemoteTraining(built, network, job.hooks, partners), job, eval_env, levels)


def _run(training: RemoteTraining, job: TrainJob, eval_env: TaskVectorEnv, levels: int) -> TrainResult:
    """``levels``: seed of the first evaluation's."""
    algorithm = training.algorithm
    evaluation = PeriodicEvaluation(job, eval_env, levels, training.faults)
    rollouts = RolloutMetrics(eval_env.groups)
    parts: Mapping[str, Savable] = {
        "training": training,
        "random": RandomState(torch.device("cpu")),
        "trials": evaluation,
        "supervisor": rollouts,
    }
    algorithm.budget = job.budget
    if job.critics:
        training.load_critics(job.critics)
        algorithm.critics_carried = True

    def begin(env_steps: int) -> None:
        training.begin_episodes(nth_seed(job.seed, env_steps))

    snapshotter = Snapshotter(job.snapshots, parts, None if eval_env.savable else begin)

    def evaluate() -> None:
        training.fetch()
        evaluation.evaluate(algorithm.env_steps)
        training.send_method_state()  # the method's report has reset what it measures

    try:
        snapshotter.resume()
        while algorithm.env_steps < job.budget:
            snapshotter.maybe_save(algorithm.env_steps)
            if evaluation.due(algorithm.env_steps):
                evaluate()
            if job.hooks.schedule is not None:
                training.schedule(algorithm.env_steps / job.budget)
            algorithm.training_step()
            rollouts.add(algorithm.fragments)
            speed = {"time/env_steps_per_s": algorithm.env_steps / max(snapshotter.seconds, 1e-9)}
            faults = evaluation.new_faults()
            job.record(algorithm.env_steps, {**rollouts.means(), **speed, **training.metrics(), **faults})
    except Exception as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if type(cause) is RuntimeError:  # perhaps of a learner that lost the connection to one that failed
            cause = training.failure() or cause
        if isinstance(cause, TooManyFaults):
            training.fetch()
            job.critics.update(training.critics())
            cause.env_steps = algorithm.env_steps
            job.record(algorithm.env_steps, cause.faults.metrics())
        if isinstance(cause, Unstable):
            training.complete(cause)
        if cause is error:
            raise
        raise cause from error
    evaluate()
    job.critics.update(training.critics())
    return evaluation.result(algorithm.env_steps, snapshotter.seconds)._replace(fresh_at=snapshotter.fresh_at)
