"""A Graft batch as a Stable-Baselines3 VecEnv."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.recent_returns import RecentReturns
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError


class Step(NamedTuple):
    """What came of a step of N environments: observations, scaled rewards (N,) float32, and whose episode ended (N,).

    ``cut``: rows whose episode was ended by a time limit alone. ``finals``: last observations of ended episodes, by
    row. ``episodes``: row -> the ended episode's return ``r``, length ``l`` and time ``t``.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    cut: NDArray[np.int64]
    finals: Any
    episodes: dict[int, dict[str, Any]]


class BatchVecEnv(VecEnv):
    """A native batch as a VecEnv, without a Python loop over its environments.

    Only environments whose episode ended in a step get an info: ``terminal_observation``, ``TimeLimit.truncated`` and
    the episode's return ``r``, length ``l`` and time ``t``. ``seed`` has no effect: `envs.make` seeds the batch.

    Args:
        env: a batch with same-step autoreset; raises GraftError otherwise.
        reward_scale: multiplies rewards, not the episodes' returns.

    Attributes:
        alive: which rows are in play now, (N,) bool. acted: which were when the latest step was taken.
        lengths: steps that the current episodes have had, (N,).
    """

    def __init__(self, env: TaskVectorEnv, reward_scale: float = 1.0) -> None:
        if env.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            raise GraftError("Stable-Baselines3 needs same-step autoreset; this batch resets at the next step.")
        self.env, self._reward_scale = env, reward_scale
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._network: PolicyNetwork | None = None
        self._returns = np.zeros(env.num_envs)
        self.lengths = np.zeros(env.num_envs, np.int64)
        self.alive = self.acted = self._all = np.ones(env.num_envs, np.bool_)
        self._start = time.perf_counter()
        self.recent = RecentReturns(env.groups)
        self._no_infos: list[dict[str, Any]] = [{}] * env.num_envs

    def play_as(self, network: PolicyNetwork) -> None:
        """Take actions as ``network`` draws them, where these are not what the environment takes.

        Box actions of the default distribution then have no bounds here. The library asserts that they are finite, and
        clips to them: so they are the largest numbers.
        """
        schema = network.schemas.action
        if schema.kind == "box" and network.config.distribution is None:
            self._network = network
            largest = float(np.finfo(np.float32).max)
            self.action_space = gym.spaces.Box(-largest, largest, (len(schema.names),), np.float32)

    def reset(self, seed: int | None = None) -> Any:
        """Fresh episodes; environment i is seeded with ``seed + i``."""
        obs, infos = self.env.reset(seed=seed)
        self.alive = infos.get("alive", self._all)
        self._returns[:] = 0.0
        self.lengths[:] = 0
        return obs

    def step_async(self, actions: Any) -> None:
        if self._network is not None:
            actions = self._network.played(torch.as_tensor(actions)).numpy()
        self._actions = actions

    def step_batch(self, actions: Any) -> Step:
        """Play a step of all environments, and return it without infos of each."""
        self.step_async(actions)
        return self._step()

    def step_played(self, actions: Any) -> Step:
        """`step_batch` with actions as the environment takes them, as of `PolicyNetwork.act`."""
        self._actions = actions
        return self._step()

    def _step(self) -> Step:
        obs, rewards, terminated, truncated, infos = self.env.step(self._actions)
        self.acted, self.alive = self.alive, infos.get("alive", self._all)
        self._returns += rewards
        self.lengths += self.acted
        dones = terminated | truncated
        episodes = {}
        if dones.any():
            elapsed = time.perf_counter() - self._start
            for i in np.flatnonzero(dones).tolist():
                episodes[i] = {"r": float(self._returns[i]), "l": int(self.lengths[i]), "t": elapsed}
                self.recent.add(i, self._returns[i])
            self._returns[dones] = 0.0
            self.lengths[dones] = 0
        scaled = (rewards * self._reward_scale).astype(np.float32)
        cut = np.flatnonzero(truncated & ~terminated)
        return Step(obs, scaled, dones, cut, infos.get("final_obs"), episodes)

    def step_wait(self) -> VecEnvStepReturn:
        step = self._step()
        infos = self._no_infos
        if step.episodes:
            infos, cut = list(self._no_infos), set(step.cut.tolist())
            for i, episode in step.episodes.items():
                infos[i] = {
                    "terminal_observation": step.finals[i],
                    "TimeLimit.truncated": i in cut,
                    "episode": episode,
                }
        return step.observations, step.rewards, step.dones, infos

    def close(self) -> None:
        self.env.close()

    def save_state(self) -> dict[str, NDArray[Any]]:
        """Also of the batch, where that is savable."""
        inner = self.env.save_state() if self.env.savable else {}
        batch = {f"batch.{name}": array for name, array in inner.items()}
        mine = {"alive": self.alive, "returns": self._returns, "lengths": self.lengths}
        return {**batch, **{name: array.copy() for name, array in mine.items()}, **self.recent.save_state()}

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        inner = {name.removeprefix("batch."): array for name, array in saved.items() if name.startswith("batch.")}
        if self.env.savable:
            self.env.restore_state(inner)
        self.alive, self._returns[:], self.lengths[:] = saved["alive"], saved["returns"], saved["lengths"]
        self.recent.restore_state(saved)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.env, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise GraftError(f"Cannot set '{attr_name}' of single environments: the batch is one object.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        raise GraftError(f"Cannot call '{method_name}' of single environments: the batch is one object.")

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
