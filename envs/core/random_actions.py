"""Random actions from per-environment counters, whose state can be saved; and the action that does nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.core.schema import ActionSchema
from graft.envs.core.task import TaskVectorEnv

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_APART = np.uint64(0x2545F4914F6CDD1D)

WIDEST = 1e3  # how far random numbers reach in a box that has no bounds


class RandomActions:
    """Random numbers of N environments, a stream each; ``state`` (N, 2) uint64 is a key and a counter for each."""

    def __init__(self, num_envs: int) -> None:
        self.state = np.zeros((num_envs, 2), np.uint64)

    def seed(self, seed: int) -> None:
        seeds = np.uint64(seed) + np.arange(len(self.state), dtype=np.uint64)
        with np.errstate(over="ignore"):  # unsigned numbers wrap
            self.state[:, 0] = _mixed(seeds * _STEP ^ _APART)
        self.state[:, 1] = 0

    def last(self) -> RandomActions:
        only = RandomActions(0)
        only.state = self.state[-1:]
        return only

    def uniform(self, count: int) -> NDArray[np.float64]:
        """(N, count) numbers in [0, 1), by SplitMix64."""
        with np.errstate(over="ignore"):
            numbers = self.state[:, 1:] + np.arange(1, count + 1, dtype=np.uint64)
            self.state[:, 1] += np.uint64(count)
            found = _mixed(self.state[:, :1] + numbers * _STEP) >> np.uint64(11)
        return found.astype(np.float64) * (1.0 / 2.0**53)

    def actions(self, schema: ActionSchema, size: int, forbidden: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Uniform actions: (N, size) int64, or (N, size, n) int64 of several choices or float32 of a box.

        ``forbidden`` (N, size, A): actions that are not drawn.
        """
        names = len(schema.names)
        if forbidden is not None:
            choices = self.uniform(size * (len(schema.sizes) or 1)).reshape(len(self.state), size, -1)
            return allowed_actions(schema, choices, forbidden)
        if schema.kind == "discrete":
            return (self.uniform(size) * names).astype(np.int64)
        if schema.kind == "multi":
            choices = self.uniform(size * len(schema.sizes)).reshape(-1, size, len(schema.sizes))
            return (choices * schema.sizes).astype(np.int64)
        low = np.array([b if math.isfinite(b) else -WIDEST for b in schema.low])
        high = np.array([b if math.isfinite(b) else WIDEST for b in schema.high])
        within = self.uniform(size * names).reshape(-1, size, names)
        found: NDArray[np.float32] = (low + (high - low) * within).astype(np.float32)
        return found


def allowed_actions(schema: ActionSchema, numbers: NDArray[Any], forbidden: NDArray[np.bool_]) -> NDArray[Any]:
    """Uniform actions among those that are allowed: (...) int64, or (..., choices) of several choices.

    Args:
        numbers: in [0, 1), (..., choices), one for each choice. forbidden: (..., A).
    """
    sizes, first, found = schema.sizes or (len(schema.names),), 0, []
    for choice, size in enumerate(sizes):
        ranks = np.cumsum(~forbidden[..., first : first + size], -1)  # 1 for the first allowed action
        wanted = np.floor(numbers[..., choice] * ranks[..., -1]) + 1
        found.append(np.argmax(ranks == wanted[..., None], -1))
        first += size
    return np.stack(found, -1) if schema.sizes else found[0]


def sample(env: TaskVectorEnv, obs: Any) -> Any:
    """Uniform actions of a batch from its action space's random numbers; those that ``obs`` forbid are not drawn."""
    forbidden = env.schemas.forbidden(obs)
    if forbidden is None:
        return env.action_space.sample()
    choices = len(env.action_schema.sizes) or 1
    return allowed_actions(env.action_schema, env.action_space.np_random.random((len(obs), choices)), forbidden)


def no_op(actions: ActionSchema, shape: tuple[int, ...], forbidden: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """The action that does least, for each place of ``shape``: action 0, or what is nearest to 0 within a box.

    Where ``forbidden`` (*shape, A) says so, the first that is allowed.
    """
    if forbidden is not None:
        return allowed_actions(actions, np.zeros((*shape, len(actions.sizes) or 1)), forbidden)
    if actions.kind == "discrete":
        return np.zeros(shape, np.int64)
    if actions.kind == "multi":
        return np.zeros((*shape, len(actions.sizes)), np.int64)
    return np.broadcast_to(np.clip(0.0, actions.low, actions.high), (*shape, len(actions.names))).astype(np.float32)


def _mixed(z: NDArray[Any]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    bits: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return bits
