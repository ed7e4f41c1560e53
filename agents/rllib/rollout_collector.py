"""Collects rollouts of one policy: acts for its rows of a batch, and records what a learner needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from graft.agents.networks.policy_network import Outputs, PolicyNetwork
from graft.agents.rllib.module import NetworkModule, distribution_inputs

Array = NDArray[Any]


class EndedEpisodes(NamedTuple):
    """Undiscounted returns, lengths and rows of the episodes that ended, each (n,)."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]


class StepResult(NamedTuple):
    """A step of N rows: observations (N, ...), rewards and flags (N,), and which rows are in play now (N,).

    ``last``: final observations (N, ...), valid for rows that ended; None where none did.
    """

    obs: Array
    rewards: Array
    terminated: Array
    truncated: Array
    alive: Array
    last: Array | None


def advantages(
    rewards: Array, values: Array, after: Array, dones: Array, gamma: float, gae_lambda: float
) -> NDArray[np.float32]:
    """Generalised advantage estimates (T, N) (Schulman et al. 2016, equations 11 and 16).

    Args:
        rewards: (T, N). values: of the states acted in, (T, N). dones: whether an episode ended, (T, N).
        after: values of the next states, (T, N): of the final state where an episode was truncated, 0 where it
            terminated.
    """
    errors = rewards + gamma * after - values
    estimates = np.empty_like(errors, dtype=np.float32)
    running = np.zeros(errors.shape[1], np.float32)
    for t in range(len(errors) - 1, -1, -1):
        running = errors[t] + gamma * gae_lambda * ~dones[t] * running
        estimates[t] = running
    return estimates


class Rollout(NamedTuple):
    """T steps of N rows, filled in order; each (T, N, ...).

    ``last``: values of the final observations of truncated episodes, else 0. ``acted``: whether a row was in play.
    """

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
    def empty(cls, steps: int, obs: Array, network: PolicyNetwork) -> Rollout:
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

    def columns(self, last_values: Array, gamma: float, gae_lambda: float) -> dict[str, Array]:
        """By RLlib's names, the steps of rows in play; ``last_values`` (N,): of the states after the last step."""
        after = np.where(self.dones, self.last, np.concatenate([self.values[1:], last_values[None]]))
        gained = advantages(self.rewards, self.values, after, self.dones, gamma, gae_lambda)
        arrays = {
            Columns.OBS: self.obs,
            Columns.ACTIONS: self.actions,
            Columns.ACTION_LOGP: self.logp,
            Columns.ACTION_DIST_INPUTS: self.inputs,
            Postprocessing.ADVANTAGES: gained,
            Postprocessing.VALUE_TARGETS: gained + self.values,
        }
        if self.acted.all():
            return {name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
        return {name: array[self.acted] for name, array in arrays.items()}


class RolloutCollector:
    """A policy and its rows of a batch.

    Attributes:
        module: the policy. rows: N. rollout: what was recorded since `begin`.
        lengths: steps that the current episodes have had, (N,). generator: of its actions.

    Args:
        seed: of its actions. scale: multiplies recorded rewards, not returns. device: of the policy.
    """

    rollout: Rollout

    def __init__(self, module: NetworkModule, rows: int, seed: int, scale: float, device: Any) -> None:
        self.module, self.rows, self._scale, self._device = module, rows, scale, device
        self.generator = torch.Generator().manual_seed(seed)
        self._returns, self.lengths = np.zeros(rows), np.zeros(rows, np.int64)
        self._obs: Array | None = None
        self._alive: Array = np.ones(rows, np.bool_)
        self._ended: list[tuple[float, int, int]] = []
        self._t = 0

    @property
    def started(self) -> bool:
        return self._obs is not None

    @property
    def obs(self) -> Array:
        assert self._obs is not None
        return self._obs

    def reset(self, obs: Array, alive: Array) -> None:
        """The first observations of all rows, and which are in play."""
        self._obs, self._alive = obs, alive
        self._returns[:] = 0.0
        self.lengths[:] = 0

    def begin(self, steps: int) -> None:
        self.module.eval()
        self.rollout = Rollout.empty(steps, self.obs, self.module.network)
        self._ended, self._t = [], 0

    @torch.no_grad()
    def act(self) -> Array:
        rollout, t, network = self.rollout, self._t, self.module.network
        outputs: Outputs = network(torch.as_tensor(self._obs, device=self._device))
        actions = network.draw(outputs, self.generator)
        inputs = distribution_inputs(outputs)
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        rollout.obs[t], rollout.acted[t], rollout.inputs[t] = self._obs, self._alive, inputs.cpu()
        logp = torch.as_tensor(distribution.logp(actions))
        rollout.actions[t], rollout.logp[t] = actions.cpu(), logp.cpu()
        rollout.values[t] = outputs.value.cpu()
        return network.played(actions).cpu().numpy()

    def record(self, result: StepResult) -> None:
        rollout, t = self.rollout, self._t
        self._obs, self._alive = result.obs, result.alive
        rollout.rewards[t] = result.rewards * self._scale
        rollout.dones[t] = dones = result.terminated | result.truncated
        self._returns += result.rewards
        self.lengths += rollout.acted[t]
        ended = [(float(self._returns[i]), int(self.lengths[i]), int(i)) for i in np.flatnonzero(dones)]
        if ended:
            if len(rows := np.flatnonzero(result.truncated)):
                assert result.last is not None
                rollout.last[t, rows] = self.values(result.last[rows])
            self._returns[dones] = 0.0
            self.lengths[dones] = 0
            self._ended += ended
        self._t += 1

    @torch.no_grad()
    def values(self, obs: Any) -> Array:
        """Estimated returns (N,) of observations."""
        return cast(Array, self.module.network(torch.as_tensor(obs, device=self._device)).value.cpu().numpy())

    @property
    def ended(self) -> EndedEpisodes:
        numbers = np.array(self._ended, np.float64).reshape(-1, 3)
        return EndedEpisodes(numbers[:, 0], numbers[:, 1].astype(np.int64), numbers[:, 2].astype(np.int64))

    def save_state(self) -> dict[str, Array]:
        mine = {"returns": self._returns, "lengths": self.lengths, "alive": self._alive}
        if self._obs is not None:
            mine["obs"] = self._obs
        return {name: array.copy() for name, array in mine.items()} | {"generator": self.generator.get_state().numpy()}

    def restore_state(self, saved: Mapping[str, Array]) -> None:
        self.generator.set_state(torch.from_numpy(saved["generator"].copy()))
        self._returns[:], self.lengths[:], self._alive = saved["returns"], saved["lengths"], saved["alive"].copy()
        self._obs = saved["obs"].copy() if "obs" in saved else None
