"""Training with RLlib: learners and runners in this process, or in others, on this machine or on a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from ray.exceptions import RayTaskError
from ray.rllib.core import DEFAULT_MODULE_ID

from agents.backend import Evaluation, Hooks, Record, Resources, TrainResult
from agents.evaluate import evaluate
from agents.keeper import Batch, Keeper, Randomness, savable
from agents.learner_state import arrays, restore_freezing, tensors
from agents.network import PolicyNetwork
from agents.recent import WINDOW, Recent
from agents.rllib.algorithm import Algorithm
from agents.rllib.cluster import join
from agents.rllib.learner import HOOKS, TransferLearner
from agents.rllib.module import Held, module_spec
from agents.rllib.runner import BatchRunner, Fragment, World
from agents.snapshot import Part, Saved, Snapshots
from envs.errors import GraftError
from envs.factory import make
from envs.faults import Faults, TooManyFaults, together
from envs.task import Task, TaskVectorEnv

T = TypeVar("T")

TAGS = {
    "policy_loss": "train/policy_gradient_loss",
    "vf_loss_unclipped": "train/value_loss",
    "vf_explained_var": "train/explained_variance",
    "entropy": "train/entropy",
    "total_loss": "train/loss",
}
"""RLlib's names of what a learner measures -> tags of Graft's records."""


class _Trained:
    """A training by RLlib's ``algorithm``: what it knows, and what this process knows of it.

    ``network`` and the hooks' state are this process's; those that train may be elsewhere.
    """

    def __init__(self, algorithm: Any, network: PolicyNetwork, hooks: Hooks) -> None:
        self.algorithm, self._network, self._hooks = algorithm, network, hooks

    def learners(self, call: Callable[[TransferLearner], T]) -> list[T]:
        """What ``call`` gives for each learner; what it raises in one of them is raised here."""
        results = list(self.algorithm.learner_group.foreach_learner(call))
        for result in results:
            if not result.ok:
                raise result.get()
        return [result.get() for result in results]

    def runners(self, call: Callable[[BatchRunner], T]) -> list[T]:
        """What ``call`` gives for each runner, in the order of their environments."""
        found: list[T] = self.algorithm.env_runner_group.foreach_env_runner(call)
        return found

    def fetch(self) -> Saved:
        """The first learner's state, which this process's network and hooks take over."""
        saved = _unpacked(self.learners(_saved)[0])
        self._take_over(saved)
        return saved

    def give_back(self) -> None:
        """Let learners in other processes take over the state of this process's hooks."""
        if self._hooks.state is not None and self.algorithm.config.num_learners:
            self.learners(partial(_hooks_restored, saved=_packed(self._hooks.state.save())))

    def _take_over(self, saved: Saved) -> None:
        self._network.load_exactly(_part(saved, "network"))
        restore_freezing(self._network, saved.values["trains"], saved.values["frozen"])
        if self._hooks.state is not None:
            self._hooks.state.restore(Saved(_part(saved, "method"), saved.values["method"]))

    def save(self) -> Saved:
        """For a snapshot: learner, random numbers of each learner, runners, env steps."""
        learner = self.fetch()
        parts = {"learner": learner}
        parts |= {f"random {i}": _unpacked(saved) for i, saved in enumerate(self.learners(_randomness))}
        parts |= {f"runner {i}": Saved(tensors(found), {}) for i, found in enumerate(self.runners(_state_of_runner))}
        held = {f"{part}/{name}": t for part, saved in parts.items() for name, t in saved.tensors.items()}
        values = {part: dict(saved.values) for part, saved in parts.items()}
        return Saved(held, {"parts": values, "env_steps": self.algorithm.env_steps})

    def restore(self, saved: Saved) -> None:
        """Inverse of `save`."""
        parts = {name: Saved(_part(saved, name), values) for name, values in saved.values["parts"].items()}
        self._take_over(parts["learner"])
        self.learners(partial(_restored, saved=_packed(parts["learner"])))
        randoms = [_packed(parts[f"random {i}"]) for i in range(sum(name.startswith("random ") for name in parts))]
        self.learners(partial(_put_randomness_back, saved=randoms))
        states = [arrays(parts[f"runner {i}"].tensors) for i in range(sum(n.startswith("runner ") for n in parts))]
        self.runners(partial(_restored_runner, saved=states))
        self.algorithm.send_weights()
        self.algorithm.env_steps = saved.values["env_steps"]

    def metrics(self) -> dict[str, float]:
        """Of the first learner's last minibatch, by Graft's tags."""
        measured = self.algorithm.results[0][DEFAULT_MODULE_ID] if self.algorithm.results else {}
        return {tag: float(measured[name].peek()) for name, tag in TAGS.items() if name in measured}


def _part(saved: Saved, name: str) -> dict[str, torch.Tensor]:
    start = f"{name}/"
    return {key.removeprefix(start): t for key, t in saved.tensors.items() if key.startswith(start)}


class _Packed(NamedTuple):
    """A `Saved` for other processes: arrays, as some of torch's types do not get there."""

    arrays: dict[str, Any]
    values: Any


def _packed(saved: Saved) -> _Packed:
    return _Packed({name: tensor.detach().cpu().numpy() for name, tensor in saved.tensors.items()}, saved.values)


def _unpacked(packed: _Packed) -> Saved:
    return Saved(tensors({name: array.copy() for name, array in packed.arrays.items()}), packed.values)


# What other processes are asked to do; they get it by name.


def _saved(learner: TransferLearner) -> _Packed:
    return _packed(learner.save())


def _restored(learner: TransferLearner, saved: _Packed) -> None:
    learner.restore(_unpacked(saved))


def _hooks_restored(learner: TransferLearner, saved: _Packed) -> None:
    assert learner.hooks.state is not None
    learner.hooks.state.restore(_unpacked(saved))


def _state_of_runner(runner: BatchRunner) -> dict[str, Any]:
    return runner.save()


def _restored_runner(runner: BatchRunner, saved: list[dict[str, Any]]) -> None:
    runner.restore(saved[runner.index])


def _randomness(learner: TransferLearner) -> _Packed:
    return _packed(learner.randomness().save())


def _put_randomness_back(learner: TransferLearner, saved: list[_Packed]) -> None:
    learner.randomness().restore(_unpacked(saved[learner._learner_index]))


def _faults(runner: BatchRunner) -> Faults:
    return runner.faults


def _schedule(learner: TransferLearner, progress: float) -> None:
    learner.schedule(progress)


class _Supervisor:
    """Between rollouts: evaluates when due, records, and moves the method's schedule on."""

    def __init__(
        self,
        trained: _Trained,
        network: PolicyNetwork,
        env: TaskVectorEnv,
        plan: Evaluation,
        hooks: Hooks,
        record: Record,
        seed: int,
    ) -> None:
        self._trained, self._network, self._env, self._plan = trained, network, env, plan
        self._hooks, self._record = hooks, record
        self._generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        self._due = self._known_faults = 0
        self._returns: deque[float] = deque(maxlen=WINDOW)
        self._lengths: deque[float] = deque(maxlen=WINDOW)
        self._recent = Recent(env.groups)
        self.last_returns: list[float] = []
        self.last_means: dict[str, float] = {}

    def save(self) -> Saved:
        """What its next records depend on."""
        tensors = {"generator": self._generator.get_state()}
        tensors |= {name: torch.from_numpy(array) for name, array in self._recent.save().items()}
        values = {"due": self._due, "faults": self._known_faults, "last": self.last_returns}
        return Saved(tensors, {**values, "returns": list(self._returns), "lengths": list(self._lengths)})

    def restore(self, saved: Saved) -> None:
        """Inverse of `save`."""
        self._generator.set_state(saved.tensors["generator"])
        self._recent.restore({name: t.numpy() for name, t in saved.tensors.items()})
        self._due, self._known_faults = saved.values["due"], saved.values["faults"]
        self.last_returns = saved.values["last"]
        self._returns.extend(saved.values["returns"])
        self._lengths.extend(saved.values["lengths"])

    def faults(self) -> Faults:
        """Of the environments that it trains on, and of those that it is evaluated on."""
        return together([*self._trained.runners(_faults), self._env.faults])

    def _new_faults(self) -> dict[str, float]:
        faults, before = self.faults(), self._known_faults
        self._known_faults = faults.total
        return faults.metrics() if faults.total > before else {}

    def evaluate(self, env_steps: int) -> None:
        """Now, whether due or not."""
        self._trained.fetch()
        episodes = evaluate(self._network, self._env, self._plan.episodes, self._generator, self._plan.deterministic)
        self.last_returns, self.last_means = episodes.returns.tolist(), episodes.means(self._env.groups)
        measured = self._hooks.report(self._network) if self._hooks.report is not None else {}
        self._trained.give_back()  # a report begins anew what it was about
        self._record(env_steps, {**episodes.metrics(self._env.groups), **self._new_faults(), **measured})

    def before_rollout(self, env_steps: int, progress: float) -> None:
        """The evaluation that is due, and the schedule."""
        if env_steps >= self._due:
            self.evaluate(env_steps)
            self._due += self._plan.every
        if self._hooks.schedule is not None:
            self._trained.learners(partial(_schedule, progress=progress))
            self._trained.algorithm.send_weights()

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
        speed = {"time/env_steps_per_s": env_steps / max(seconds, 1e-9)}
        self._record(env_steps, {**means, **parts, **speed, **self._trained.metrics(), **self._new_faults()})


def build(
    algorithm: Algorithm, network: PolicyNetwork, world: World, hooks: Hooks, seed: int, resources: Resources
) -> Any:
    """RLlib's algorithm, ready to train."""
    runners, spec = max(1, resources.num_env_runners), module_spec(network)
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
    config.env_runners(
        num_env_runners=resources.num_env_runners,
        num_envs_per_env_runner=algorithm.num_envs // runners,
        num_cpus_per_env_runner=resources.num_cpus_per_env_runner,
        create_local_env_runner=not resources.num_env_runners,
    )
    config.learners(
        num_learners=resources.num_learners,
        num_gpus_per_learner=resources.num_gpus_per_learner,
        learner_config_dict={HOOKS: Held(replace(hooks, report=None))},
    )
    # An environment's bug must not hide behind restarts; what may fail and how often, Graft's own rules say.
    config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=False)
    # RLlib would put zeros in the place of gradients that are not finite; with this, the next pass finds out.
    config.framework(torch_skip_nan_gradients=True)
    config.debugging(seed=seed % 2**31, log_level="ERROR")
    return config.build_algo()


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
    """Train ``network`` on ``task``, in place; arguments as of `agents.sb3.train`.

    Args:
        device: unused; ``resources`` say who has a GPU.
        resources: processes and GPUs. A running Ray is joined; where there is none, one is started on this machine.
    Raises:
        Unstable: training diverged.
        TooManyFaults: environments failed more often than the task allows; ``network`` is as trained as it was then.
        GraftError: as there; or what the cluster does not have is asked for.
    """
    algorithm.check_network(network)
    plan, hooks, resources = evaluation or Evaluation(), hooks or Hooks(), resources or Resources()
    join(resources)
    observation = network.schemas.observation
    world = World(task, observation, seed, algorithm.reward_scale, workers)
    eval_env = make(task, plan.num_envs, seed + algorithm.num_envs, observation=observation, workers=workers)
    try:
        learner = build(algorithm, network, world, hooks, seed, resources)
    except BaseException:
        eval_env.close()
        raise
    try:
        return _run(learner, network, eval_env, plan, budget, hooks, record, seed, snapshots)
    finally:
        learner.stop()
        eval_env.close()


def _run(
    learner: Any,
    network: PolicyNetwork,
    eval_env: TaskVectorEnv,
    plan: Evaluation,
    budget: int,
    hooks: Hooks,
    record: Record,
    seed: int,
    snapshots: Snapshots | None,
) -> TrainResult:
    trained = _Trained(learner, network, hooks)
    supervisor = _Supervisor(trained, network, eval_env, plan, hooks, record, seed)
    parts: Mapping[str, Part] | None = None
    if savable(eval_env):
        parts = {
            "training": trained,
            "random": Randomness(torch.device("cpu")),
            "evaluation": Batch(eval_env),
            "supervisor": supervisor,
        }
    keeper = Keeper(snapshots, parts)
    keeper.resume()
    try:
        while learner.env_steps < budget:
            keeper.visit(learner.env_steps)
            supervisor.before_rollout(learner.env_steps, learner.env_steps / budget)
            learner.training_step()
            supervisor.after_rollout(learner.env_steps, learner.fragments, keeper.seconds)
    except Exception as error:
        cause = error.cause if isinstance(error, RayTaskError) else error  # as it was raised, where it was raised
        if isinstance(cause, TooManyFaults):
            trained.fetch()
            cause.env_steps = learner.env_steps
            record(learner.env_steps, cause.faults.metrics())
        if cause is error:
            raise
        raise cause from error
    supervisor.evaluate(learner.env_steps)
    faults = {kind: count for kind, count in supervisor.faults().items() if count}
    return TrainResult(learner.env_steps, keeper.seconds, supervisor.last_returns, supervisor.last_means, faults)
