"""Observations for checking an exported policy: recorded by playing the task, or drawn from the schema's bounds."""

from __future__ import annotations

import math
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.parity import CHUNK, Array, finite, record
from graft.agents.training.evaluate import eval_mode
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.errors import GraftError

FEWEST = 1000  # states that an export is checked in
BATCH = 8  # environments that are played at once
FAR = 3.0  # standard deviation of features without bounds, where states are drawn


class Recording(NamedTuple):
    """States and what evaluation plays in them.

    Attributes:
        observations: (N, *obs_shape).
        actions: greedy, as the environment receives them in evaluation, (N,) or (N, A).
        scores: the network's logits, Q values or means, (N, A), as `Outputs.action`.
        log_std: of box actions, (N, A), in the units of ``scores``; None of others.
        source: a phrase: where the states are from.
    """

    observations: Array
    actions: Array
    scores: Array
    log_std: Array | None
    source: str


def record_states(network: PolicyNetwork, task: Task, count: int, seed: int) -> Recording:
    """``count`` states of ``task`` and the actions of evaluation with ``deterministic``.

    Where the task is not installed here, states are drawn from the bounds of the schema.

    Raises:
        GraftError: a task that is installed and refuses its keywords or fails in play, or an agent without finite
            outputs.
    """
    with eval_mode(network):
        try:
            env = make(task, BATCH, seed, observation=network.schemas.observation)
        except GraftError as error:
            if not _is_missing(error):
                raise
            observations = drawn(network.schemas.observation, count, np.random.default_rng(seed))
            source = f"drawn from the bounds of the schema, as the task cannot be made here: {error}"
            return reference(network, observations, source)
        with closing(env):
            observations = record(network, env, count, seed)
        return reference(network, observations, f"recorded by playing {task}")


def _is_missing(error: GraftError) -> bool:
    """Whether a task cannot be made because its package or its id is not there."""
    missing = isinstance(error.__cause__, ImportError | DependencyNotInstalled)
    return missing or str(error).startswith("Unknown task ")


@torch.no_grad()
def reference(network: PolicyNetwork, observations: Array, source: str) -> Recording:
    """What evaluation plays in these states; ``network`` is in eval mode. Raises GraftError where it is not finite."""
    device = next(network.parameters()).device
    chunks = torch.split(torch.as_tensor(observations), CHUNK)
    outputs = [network(chunk.to(device)) for chunk in chunks]
    with finite():
        actions = [network.played(network.draw(o, None, deterministic=True)).cpu() for o in outputs]
    log_std = [o.log_std.expand_as(o.action).cpu() for o in outputs if o.log_std is not None]
    scores = torch.cat([o.action.cpu() for o in outputs])
    return Recording(
        observations,
        torch.cat(actions).numpy(),
        scores.numpy(),
        torch.cat(log_std).numpy() if log_std else None,
        source,
    )


def drawn(schema: ObservationSchema, count: int, rng: np.random.Generator) -> Array:
    """Random observations (count, *shape) within the bounds; flags forbid a third of the actions, never all."""
    space = schema.space()
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    uniform = np.where(bounded, low, 0) + rng.random((count, *space.shape)) * np.where(bounded, high - low, 0)
    free = np.clip(FAR * rng.standard_normal((count, *space.shape)), low, high)
    values = np.where(bounded, uniform, free)
    values = np.where(_whole(schema).reshape(space.shape), np.round(values), values)
    if schema.flags:
        number = len(schema.flags)
        forbidden = rng.random((count, number)) < 1 / 3
        forbidden[np.arange(count), rng.integers(number, size=count)] = False
        values[:, -number:] = forbidden
    found: Array = values.astype(space.dtype)
    return found


def _whole(schema: ObservationSchema) -> NDArray[np.bool_]:
    """Which numbers of a flat observation are whole, as those of pictures among other parts are."""
    if schema.parts:
        return np.concatenate([_whole(part) for _, part in schema.parts])
    return np.full(math.prod(schema.shape), np.issubdtype(np.dtype(schema.dtype), np.integer))
