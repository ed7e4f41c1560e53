"""One policy's rows of a batch: how it acts, and what a learner gets of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from graft.agents.networks.policy_network import Outputs, PolicyNetwork
from graft.agents.rllib.module import NetworkModule, distribution_inputs

Array = NDArray[Any]


class EndedEpisodes(NamedTuple):
    """Episodes that ended: undiscounted returns and lengths, and who played them, each (n,)."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]


class StepResult(NamedTuple):
    """What a step showed the rows: observations (N, ...), rewards and flags (N,), and who is in play now (N,).

    ``last`` are observations (N, ...) of which those of rows that ended count; None where none did.
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


class Rollout(NamedTuple):
    """T steps of N rows, filled one after the other; each (T, N, ...).

    ``last``: values of the observations in which episodes were truncated, else 0. ``acted``: whether a row was in play.
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


class RolloutCollector:
    """A policy and its rows, between the environments and the learner.

    Attributes:
        module: the policy. rows: N. steps: what was recorded since `begin`; None before.

    Args:
        seed: of its actions. scale: what rewards are multiplied by where they are recorded, not in returns.
        device: where the policy is.
    """

    def __init__(self, module: NetworkModule, rows: int, seed: int, scale: float, device: Any) -> None:
        self.module, self.rows, self._scale, self._device = module, rows, scale, device
        self._generator = torch.Generator().manual_seed(seed)
        self._returns, self._lengths = np.zeros(rows), np.zeros(rows, np.int64)
        self._obs: Array | None = None
        self._alive: Array = np.ones(rows, np.bool_)
        self.steps: Rollout | None = None
        self._ended: list[tuple[float, int, int]] = []
        self._t = 0

    @property
    def started(self) -> bool:
        """Whether it has seen anything."""
        return self._obs is not None

    @property
    def obs(self) -> Array:
        """What the rows see now, (N, ...)."""
        assert self._obs is not None
        return self._obs

    def start(self, obs: Array, alive: Array) -> None:
        """The first observations of all rows, and who is in play."""
        self._obs, self._alive = obs, alive

    def begin(self, steps: int) -> None:
        """Begin to record."""
        assert self._obs is not None
        self.module.eval()
        self.steps = Rollout.empty(steps, self._obs, self.module.network)
        self._ended, self._t = [], 0

    @torch.no_grad()
    def act(self) -> Array:
        """Actions of all rows, as the environment takes them."""
        steps, t, network = self.steps, self._t, self.module.network
        assert steps is not None
        outputs: Outputs = network(torch.as_tensor(self._obs, device=self._device))
        actions = network.draw(outputs, self._generator)
        inputs = distribution_inputs(outputs)
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        steps.obs[t], steps.acted[t], steps.inputs[t] = self._obs, self._alive, inputs.cpu()
        logp = torch.as_tensor(distribution.logp(actions))
        steps.actions[t], steps.logp[t] = actions.cpu(), logp.cpu()
        steps.values[t] = outputs.value.cpu()
        played: Array = network.played(actions).cpu().numpy()
        return played

    def see(self, seen: StepResult) -> None:
        """What came of its actions."""
        steps, t = self.steps, self._t
        assert steps is not None
        self._obs, self._alive = seen.obs, seen.alive
        steps.rewards[t] = seen.rewards * self._scale
        steps.dones[t] = dones = seen.terminated | seen.truncated
        self._returns += seen.rewards
        self._lengths += steps.acted[t]
        ended = [(float(self._returns[i]), int(self._lengths[i]), int(i)) for i in np.flatnonzero(dones)]
        if ended:
            if len(rows := np.flatnonzero(seen.truncated)):
                assert seen.last is not None
                steps.last[t, rows] = self.values(seen.last[rows])
            self._returns[dones] = 0.0
            self._lengths[dones] = 0
            self._ended += ended
        self._t += 1

    @torch.no_grad()
    def values(self, obs: Any) -> Array:
        """Estimated returns (N,) of observations."""
        outputs: Outputs = self.module.network(torch.as_tensor(obs, device=self._device))
        found: Array = outputs.value.cpu().numpy()
        return found

    def following(self) -> Array:
        """Estimated returns (N,) of what the rows see now."""
        return self.values(self._obs)

    @property
    def ended(self) -> EndedEpisodes:
        """Episodes that ended since `begin`, in their order."""
        numbers = np.array(self._ended, np.float64).reshape(-1, 3)
        return EndedEpisodes(numbers[:, 0], numbers[:, 1].astype(np.int64), numbers[:, 2].astype(np.int64))

    def save(self) -> dict[str, Array]:
        """What its next actions and records depend on, beside the weights: arrays, which get to other processes."""
        mine = {"returns": self._returns, "lengths": self._lengths, "alive": self._alive}
        if self._obs is not None:
            mine["obs"] = self._obs
        return {name: array.copy() for name, array in mine.items()} | {"generator": self._generator.get_state().numpy()}

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Inverse of `save`."""
        self._generator.set_state(torch.from_numpy(saved["generator"].copy()))
        self._returns[:], self._lengths[:], self._alive = saved["returns"], saved["lengths"], saved["alive"].copy()
        self._obs = saved["obs"].copy() if "obs" in saved else None
