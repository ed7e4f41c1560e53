"""A Graft batch as a Stable-Baselines3 VecEnv."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from graft.agents.training.recent_returns import RecentReturns
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError


class BatchVecEnv(VecEnv):
    """Hands a native batch to Stable-Baselines3 without a Python loop over its environments.

    A step costs Python time only for the environments whose episode ended in it: these get an info with
    ``terminal_observation``, ``TimeLimit.truncated`` and the episode's return ``r``, length ``l`` and time ``t``.

    Args:
        env: a batch with same-step autoreset; raises GraftError otherwise.
        reward_scale: what rewards are multiplied by; the episodes' returns are not.

    Attributes:
        alive: which rows are in play now, (N,) bool. acted: which were when the latest step was taken.
    """

    def __init__(self, env: TaskVectorEnv, reward_scale: float = 1.0) -> None:
        if env.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            raise GraftError("Stable-Baselines3 needs same-step autoreset; this batch resets at the next step.")
        self.env, self._reward_scale = env, reward_scale
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self.alive = self.acted = self._all = np.ones(env.num_envs, np.bool_)
        self._start = time.time()
        self.recent = RecentReturns(env.groups)
        self._quiet: list[dict[str, Any]] = [{}] * env.num_envs

    def reset(self) -> Any:
        """First observations of fresh episodes, (N, *obs_shape)."""
        obs, infos = self.env.reset()
        self.alive = infos.get("alive", self._all)
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return obs

    def step_async(self, actions: Any) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """One step of the batch."""
        obs, rewards, terminated, truncated, infos = self.env.step(self._actions)
        self.acted, self.alive = self.alive, infos.get("alive", self._all)
        self._returns += rewards
        self._lengths += self.acted
        dones = terminated | truncated
        reports = self._quiet
        if dones.any():
            reports = list(self._quiet)
            elapsed = time.time() - self._start
            for i in np.flatnonzero(dones):
                reports[i] = {
                    "terminal_observation": infos["final_obs"][i],
                    "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                    "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": elapsed},
                }
                self.recent.add(int(i), self._returns[i])
            self._returns[dones] = 0.0
            self._lengths[dones] = 0
        return obs, (rewards * self._reward_scale).astype(np.float32), dones, reports

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def save_state(self) -> dict[str, NDArray[Any]]:
        """What the batch's future depends on, with the returns and lengths of running episodes."""
        inner = self.env.save_state()
        batch = {f"batch.{name}": array for name, array in inner.items()}
        mine = {"alive": self.alive, "returns": self._returns, "lengths": self._lengths}
        return {**batch, **{name: array.copy() for name, array in mine.items()}, **self.recent.save()}

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        """Go back to a state of `save_state`."""
        inner = {name.removeprefix("batch."): array for name, array in saved.items() if name.startswith("batch.")}
        self.env.restore_state(inner)
        self.alive, self._returns[:], self._lengths[:] = saved["alive"], saved["returns"], saved["lengths"]
        self.recent.restore(saved)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The batch's attribute, once per environment asked for."""
        return [getattr(self.env, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not offered: a native batch has no per-environment objects."""
        raise GraftError(f"Cannot set '{attr_name}' of single environments: the batch is one object.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Not offered: a native batch has no per-environment objects."""
        raise GraftError(f"Cannot call '{method_name}' of single environments: the batch is one object.")

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Leaves the batch alone: `envs.make` seeded it, and Stable-Baselines3 seeds with the learner's seed."""
        return [None] * self.num_envs
