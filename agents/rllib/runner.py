"""An EnvRunner that plays a native batch of environments without a Python loop over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.evaluation.postprocessing import Postprocessing

from agents.network import Outputs, PolicyNetwork
from agents.rllib.module import NetworkModule, distribution_inputs
from envs.factory import make
from envs.faults import Faults
from envs.schema import ObservationSchema
from envs.task import Task, TaskVectorEnv

Array = NDArray[Any]


class World(NamedTuple):
    """What runners play: environment i of all runners together is seeded with ``seed + i``."""

    task: Task
    observation: ObservationSchema
    seed: int
    reward_scale: float
    workers: int


class Ended(NamedTuple):
    """Episodes that ended: undiscounted returns and lengths, and who played them, each (n,)."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]


class Fragment(NamedTuple):
    """What a runner has sampled.

    Attributes:
        columns: observations, actions, their log-probabilities and the distribution's inputs, advantages and value
            targets of the states of rows in play, (states, ...), in the order in which they came.
        env_steps: taken, those of rows out of play included. rows: environments. ended: episodes.
    """

    columns: dict[str, Array]
    env_steps: int
    rows: int
    ended: Ended


def advantages(
    rewards: Array, values: Array, after: Array, dones: Array, gamma: float, gae_lambda: float
) -> NDArray[np.float32]:
    """Generalised advantage estimates (T, N) (Schulman et al. 2016, equations 11 and 16).

    Args:
        rewards: (T, N). values: of the states acted in, (T, N).
        after: of the states that came of it, (T, N): where an episode was truncated, of the one it was truncated in;
            0 where it terminated. dones: whether an episode ended, (T, N).
    """
    errors = rewards + gamma * after - values
    found = np.empty_like(errors, dtype=np.float32)
    running = np.zeros(errors.shape[1], np.float32)
    for t in range(len(errors) - 1, -1, -1):
        running = errors[t] + gamma * gae_lambda * ~dones[t] * running
        found[t] = running
    return found


class _Steps(NamedTuple):
    """T steps of N environments, filled one after the other; each (T, N, ...)."""

    obs: Array
    actions: Array
    logp: Array
    inputs: Array
    values: Array
    rewards: Array
    last: Array
    dones: Array
    acted: Array

    @classmethod
    def empty(cls, steps: int, obs: Array, network: PolicyNetwork) -> _Steps:
        """For observations like ``obs`` (N, ...) and the network's actions."""
        shape, schema = (steps, len(obs)), network.schemas.action
        inside = {"discrete": (), "multi": (len(schema.sizes),), "box": (len(schema.names),)}[schema.kind]
        whole = np.float32 if schema.kind == "box" else np.int64
        names = len(schema.names) * (2 if schema.kind == "box" else 1)
        logp, values, rewards, last = (np.zeros(shape, np.float32) for _ in range(4))
        dones, acted = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        observations = np.empty((*shape, *obs.shape[1:]), obs.dtype)
        actions, inputs = np.empty((*shape, *inside), whole), np.empty((*shape, names), np.float32)
        return cls(observations, actions, logp, inputs, values, rewards, last, dones, acted)

    def columns(self, following: Array, gamma: float, gae_lambda: float) -> dict[str, Array]:
        """As RLlib names them, of the steps of rows in play; ``following`` (N,) are the values after the last step."""
        after = np.concatenate([self.values[1:], following[None]])
        after = np.where(self.dones, self.last, after)
        gained = advantages(self.rewards, self.values, after, self.dones, gamma, gae_lambda)
        found = {
            Columns.OBS: self.obs,
            Columns.ACTIONS: self.actions,
            Columns.ACTION_LOGP: self.logp,
            Columns.ACTION_DIST_INPUTS: self.inputs,
            Postprocessing.ADVANTAGES: gained,
            Postprocessing.VALUE_TARGETS: gained + self.values,
        }
        if self.acted.all():
            return {name: array.reshape(-1, *array.shape[2:]) for name, array in found.items()}
        return {name: array[self.acted] for name, array in found.items()}


class BatchRunner(SingleAgentEnvRunner):
    """RLlib's runner, whose environments are one `TaskVectorEnv` and whose samples are arrays, not episode objects.

    It acts, estimates advantages and counts as Stable-Baselines3 does, under same-step autoreset: rewards of a
    truncated episode are followed by the value of its last observation, and rows out of play are left out.
    ``env_config`` has a `World` under ``world``.

    Attributes:
        index: among the runners, 0 = the one with the first environments.
    """

    env: TaskVectorEnv | None
    module: NetworkModule

    def make_env(self) -> None:
        """The runner's share of the batch."""
        world: World = self.config.env_config["world"]
        share = self.config.num_envs_per_env_runner
        self.index = max((self.worker_index or 0) - 1, 0)
        first = world.seed + self.index * share
        self.num_envs = share
        self.env = make(world.task, share, first, observation=world.observation, workers=world.workers)
        self._scale = world.reward_scale
        self._generator = torch.Generator().manual_seed(world.seed * 1009 + self.index)
        self._obs: Array | None = None
        self._returns, self._lengths = np.zeros(share), np.zeros(share, np.int64)
        self._alive = self._all = np.ones(share, np.bool_)

    def sample(self, **_: Any) -> Fragment:  # type: ignore[override]  # arrays, not episodes
        """``rollout_fragment_length`` steps of every environment."""
        env = self.env
        assert env is not None
        if self._obs is None:
            self._obs, infos = env.reset()
            self._alive = infos.get("alive", self._all)
        self.module.eval()
        steps = _Steps.empty(self.config.rollout_fragment_length, self._obs, self.module.network)
        ended: list[tuple[float, int, int]] = []
        with torch.no_grad():
            for t in range(len(steps.rewards)):
                ended += self._step(env, steps, t)
            following = self._values(self._obs)
        numbers = np.array(ended, np.float64).reshape(-1, 3)
        outcomes = Ended(numbers[:, 0], numbers[:, 1].astype(np.int64), numbers[:, 2].astype(np.int64))
        columns = steps.columns(following, self.config.gamma, self.config["lambda_"])
        return Fragment(columns, steps.rewards.size, self.num_envs, outcomes)

    def _step(self, env: TaskVectorEnv, steps: _Steps, t: int) -> list[tuple[float, int, int]]:
        """One step of every environment; returns the episodes that it ended."""
        network = self.module.network
        outputs: Outputs = network(torch.as_tensor(self._obs, device=self._device))
        actions = network.draw(outputs, self._generator)
        inputs = distribution_inputs(outputs)
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        steps.obs[t], steps.acted[t], steps.inputs[t] = self._obs, self._alive, inputs.cpu()
        logp = torch.as_tensor(distribution.logp(actions))
        steps.actions[t], steps.logp[t] = actions.cpu(), logp.cpu()
        steps.values[t] = outputs.value.cpu()
        played: Array = network.played(actions).cpu().numpy()
        self._obs, paid, terminated, truncated, infos = env.step(played)
        self._alive = infos.get("alive", self._all)
        steps.rewards[t] = paid * self._scale
        steps.dones[t] = dones = terminated | truncated
        self._returns += paid
        self._lengths += steps.acted[t]
        ended = [(float(self._returns[i]), int(self._lengths[i]), int(i)) for i in np.flatnonzero(dones)]
        if ended:
            if len(rows := np.flatnonzero(truncated)):
                steps.last[t, rows] = self._values(infos["final_obs"][rows])
            self._returns[dones] = 0.0
            self._lengths[dones] = 0
        return ended

    def _values(self, obs: Any) -> Array:
        """Estimated returns (N,) of observations."""
        outputs: Outputs = self.module.network(torch.as_tensor(obs, device=self._device))
        found: Array = outputs.value.cpu().numpy()
        return found

    def get_metrics(self) -> dict[str, Any]:
        """None of RLlib's: a `Fragment` says what was sampled."""
        return {}

    @property
    def faults(self) -> Faults:
        """Of its environments."""
        assert self.env is not None
        return self.env.faults

    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``func`` gives for this runner; where it raises, RLlib would end the process, and lose what it was."""
        return func(self, *args, **kwargs)

    def load_weights(self, weights: Mapping[str, Array]) -> None:
        """Of the network, by name."""
        self.module.network.load_exactly({name: torch.as_tensor(array) for name, array in weights.items()})

    def save(self) -> dict[str, Array]:
        """What its next samples depend on, beside the weights; its environments' state can be saved.

        Arrays, as some of torch's types do not get from one process to another.
        """
        assert self.env is not None
        inner = self.env.save_state()  # type: ignore[attr-defined]
        batch = {f"batch.{name}": array for name, array in inner.items()}
        mine = {"returns": self._returns, "lengths": self._lengths, "alive": self._alive}
        if self._obs is not None:
            mine["obs"] = self._obs
        copies = {name: array.copy() for name, array in mine.items()}
        return {**batch, **copies, "generator": self._generator.get_state().numpy()}

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Inverse of `save`."""
        found = dict(saved)
        self._generator.set_state(torch.from_numpy(found.pop("generator").copy()))
        self._returns[:], self._lengths[:], self._alive = found["returns"], found["lengths"], found["alive"].copy()
        self._obs = found["obs"].copy() if "obs" in found else None
        inner = {name.removeprefix("batch."): array for name, array in found.items() if name.startswith("batch.")}
        assert self.env is not None
        self.env.restore_state(inner)  # type: ignore[attr-defined]
