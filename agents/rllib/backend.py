"""Training with RLlib: learners and runners in this process, or in others, on this machine or on a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ray.exceptions import RayTaskError
from ray.rllib.core import DEFAULT_MODULE_ID

from graft.agents.checkpoints.snapshot import Savable, SavedState
from graft.agents.checkpoints.snapshotter import EnvState, RandomState, Snapshotter
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.ray_session.session import join
from graft.agents.rllib.algorithm import Algorithm
from graft.agents.rllib.learner import HOOKS
from graft.agents.rllib.module import Reference, module_spec, squad_spec
from graft.agents.rllib.remote_training import RemoteTraining
from graft.agents.rllib.runner import Fragment, RunnerEnvConfig
from graft.agents.rllib.squad_runner import SquadRunner, check, check_algorithm
from graft.agents.training.backend import Hooks, Partners, Resources, TrainJob, TrainResult
from graft.agents.training.periodic_evaluation import PeriodicEvaluation
from graft.agents.training.recent_returns import WINDOW, RecentReturns
from graft.envs.core.faults import TooManyFaults
from graft.envs.core.task import Groups, Task, TaskVectorEnv
from graft.envs.factory import make
from graft.errors import GraftError


class Supervisor:
    """Between rollouts: evaluates when due, records, and moves the method's schedule on."""

    def __init__(
        self, trained: RemoteTraining, trials: PeriodicEvaluation, job: TrainJob, groups: Groups | None
    ) -> None:
        self._trained, self._trials, self._hooks, self._record = trained, trials, job.hooks, job.record
        self._returns: deque[float] = deque(maxlen=WINDOW)
        self._lengths: deque[float] = deque(maxlen=WINDOW)
        self._recent = RecentReturns(groups)
        self._partners: dict[str, deque[float]] = {}

    def save(self) -> SavedState:
        """What its next records depend on."""
        tensors = {name: torch.from_numpy(array) for name, array in self._recent.save().items()}
        partners = {policy: list(returns) for policy, returns in self._partners.items()}
        values = {"returns": list(self._returns), "lengths": list(self._lengths), "partners": partners}
        return SavedState(tensors, values)

    def restore(self, saved: SavedState) -> None:
        """Inverse of `save`."""
        self._recent.restore({name: t.numpy() for name, t in saved.tensors.items()})
        self._returns.extend(saved.values["returns"])
        self._lengths.extend(saved.values["lengths"])
        for policy, returns in saved.values["partners"].items():
            self._partners[policy] = deque(returns, maxlen=WINDOW)

    def evaluate(self, env_steps: int) -> None:
        """Now, whether due or not."""
        self._trained.fetch()
        self._trials.evaluate(env_steps)
        self._trained.give_back()  # a report begins anew what it was about

    def before_rollout(self, env_steps: int, progress: float) -> None:
        """The evaluation that is due, and the schedule."""
        if self._trials.due(env_steps):
            self.evaluate(env_steps)
        if self._hooks.schedule is not None:
            self._trained.schedule(progress)

    def after_rollout(self, env_steps: int, fragments: tuple[Fragment, ...], seconds: float) -> None:
        """Records what the rollout and its update gave."""
        first = 0
        for fragment in fragments:
            for value, length, row in zip(*fragment.ended, strict=True):
                self._returns.append(float(value))
                self._lengths.append(float(length))
                self._recent.add(first + int(row), value)
            first += fragment.rows
        latest = {"rollout/return_mean": self._returns, "rollout/length_mean": self._lengths}
        means = {tag: float(np.mean(values)) for tag, values in latest.items() if values}
        parts = {f"rollout/return_mean/{name}": value for name, value in self._recent.means().items()}
        for policy in fragments[0].others if fragments else ():
            partner = self._partners.setdefault(policy, deque(maxlen=WINDOW))
            for fragment in fragments:
                partner.extend(fragment.others[policy].ended.returns.tolist())
            if partner:
                parts[f"rollout/return_mean/{policy}"] = float(np.mean(partner))
        speed = {"time/env_steps_per_s": env_steps / max(seconds, 1e-9)}
        self._record(env_steps, {**means, **parts, **speed, **self._trained.metrics(), **self._trials.new_faults()})


def build_algorithm(
    algorithm: Algorithm,
    network: PolicyNetwork,
    world: RunnerEnvConfig,
    hooks: Hooks,
    seed: int,
    resources: Resources,
    partners: Mapping[str, PolicyNetwork] | None = None,
) -> Any:
    """RLlib's algorithm, ready to train; ``partners``: the networks beside this one, by policy."""
    runners, spec = max(1, resources.num_env_runners), module_spec(network)
    spec.module_class = algorithm.module
    if algorithm.num_envs % runners:
        raise GraftError(
            f"num_envs={algorithm.num_envs} can't be shared out evenly among {runners} env runners; give a multiple."
        )
    config = algorithm.config(resources.num_learners)
    config.environment(
        "graft",  # a name; the runners make what they play from the world
        env_config={"world": world},
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        disable_env_checking=True,
    )
    config.rl_module(rl_module_spec=spec)
    if world.plays is not None:
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
    # An environment's bug must not hide behind restarts; what may fail and how often, Graft's own rules say.
    config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=False)
    # RLlib would put zeros in the place of gradients that are not finite; with this, the next pass finds out.
    config.framework(torch_skip_nan_gradients=True)
    config.debugging(seed=seed % 2**31, log_level="ERROR")
    return config.build_algo()


def _as_squad(config: Any, network: PolicyNetwork, partners: Mapping[str, PolicyNetwork]) -> None:
    """Let several policies learn; the runners know who plays whom."""
    config.rl_module(rl_module_spec=squad_spec(network, partners))
    config.multi_agent(policies={DEFAULT_MODULE_ID, *partners}, policy_mapping_fn=lambda *_, **__: DEFAULT_MODULE_ID)
    config.env_runners(
        env_runner_cls=SquadRunner,
        add_default_connectors_to_env_to_module_pipeline=False,
        add_default_connectors_to_module_to_env_pipeline=False,
    )


def _plays(task: Task, network: PolicyNetwork, algorithm: Algorithm, partners: Partners) -> dict[str, str]:
    """Team -> RLlib's module, where ``network`` plays the task's team.

    Raises:
        GraftError: the algorithm cannot train several policies, or the networks do not fit the teams.
    """
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
    observation = network.schemas.observation
    plays = None if job.partners is None else _plays(task, network, algorithm, job.partners)
    world = RunnerEnvConfig(task, observation, seed, algorithm.reward_scale, job.workers, plays)
    others = {} if job.partners is None else dict(job.partners.networks)
    eval_env = make(
        task, job.evaluation.num_envs, seed + algorithm.num_envs, observation=observation, workers=job.workers
    )
    try:
        learner = build_algorithm(algorithm, network, world, job.hooks, seed, job.resources, others)
    except BaseException:
        eval_env.close()
        raise
    try:
        return _run(RemoteTraining(learner, network, job.hooks, others), job, eval_env)
    finally:
        learner.stop()
        eval_env.close()


def _run(trained: RemoteTraining, job: TrainJob, eval_env: TaskVectorEnv) -> TrainResult:
    learner = trained.algorithm
    trials = PeriodicEvaluation(job, eval_env, trained.faults)
    supervisor = Supervisor(trained, trials, job, eval_env.groups)
    parts: Mapping[str, Savable] | None = None
    if eval_env.savable:
        parts = {
            "training": trained,
            "random": RandomState(torch.device("cpu")),
            "evaluation": EnvState(eval_env),
            "trials": trials,
            "supervisor": supervisor,
        }
    learner.budget = job.budget
    snapshotter = Snapshotter(job.snapshots, parts)
    snapshotter.resume()
    try:
        while learner.env_steps < job.budget:
            snapshotter.maybe_save(learner.env_steps)
            supervisor.before_rollout(learner.env_steps, learner.env_steps / job.budget)
            learner.training_step()
            supervisor.after_rollout(learner.env_steps, learner.fragments, snapshotter.seconds)
    except Exception as error:
        cause = error.cause if isinstance(error, RayTaskError) else error  # as it was raised, where it was raised
        if type(cause) is RuntimeError:  # perhaps of a learner whose group another one has left
            cause = trained.failure() or cause
        if isinstance(cause, TooManyFaults):
            trained.fetch()
            cause.env_steps = learner.env_steps
            job.record(learner.env_steps, cause.faults.metrics())
        if cause is error:
            raise
        raise cause from error
    supervisor.evaluate(learner.env_steps)
    return trials.result(learner.env_steps, snapshotter.seconds)
