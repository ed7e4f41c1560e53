"""What imports and exports are compared by: states of a game, and how far the actions of two policies are apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork, Unstable
from graft.envs.core.random_actions import sample
from graft.envs.core.schema import ActionSchema
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError

Array = NDArray[Any]

TOLERANCE = 1e-5
"""Largest difference of two numbers, times the larger of 1 and the second; float32 rounds to 6e-8."""

CHUNK = 256  # states in a forward pass


@contextmanager
def finite() -> Iterator[None]:
    """Raises GraftError where a network's outputs are not."""
    try:
        yield
    except Unstable as error:
        raise GraftError(f"This agent's outputs are not finite ({error}).") from error


def record(network: PolicyNetwork, env: TaskVectorEnv, count: int, seed: int) -> Array:
    """``count`` observations (count, *shape) of a game, played by the network in every second environment and at
    random in the others.
    """
    env.action_space.seed(seed % 2**32)
    obs, infos = env.reset(seed=seed)
    everyone = np.ones(env.num_envs, np.bool_)
    greedy = np.arange(env.num_envs) % 2 == 0
    seen, total = [], 0
    while total < count:
        alive = infos.get("alive", everyone)
        seen.append(obs[alive])
        total += int(alive.sum())
        actions = np.asarray(sample(env, obs)).copy()
        with finite():
            own = network.act(obs, None, deterministic=True).cpu().numpy()
        actions[greedy] = own[greedy].astype(actions.dtype)
        obs, _, _, _, infos = env.step(actions)
    return np.concatenate(seen)[:count]


def choices(scores: Array, actions: ActionSchema) -> list[Array]:
    """The scores of each choice, (N, size); one choice where the schema has no sizes."""
    return np.split(scores, np.cumsum(actions.sizes)[:-1], 1) if actions.sizes else [scores]


def gaps(found: Array, wanted: Array, scores: Array, actions: ActionSchema) -> Array:
    """How far actions are from the ``wanted`` ones, (N, A), relative to those above 1.

    Of choices: by how much their ``scores`` (N, outputs) differ where the choices do, relative to the wanted one's.
    """
    if actions.kind == "box":
        with np.errstate(invalid="ignore"):  # what is not a number is far from everything
            relative: Array = np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
        return relative
    mine, theirs = found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)
    off, rows = np.zeros(mine.shape), np.arange(len(found))
    for index, values in enumerate(choices(scores, actions)):
        best = values[rows, theirs[:, index]]
        off[:, index] = np.abs(best - values[rows, mine[:, index]]) / np.maximum(1.0, np.abs(best))
    return np.where(mine == theirs, 0.0, off)
