"""Observations for checking an exported policy: recorded by playing the task, or drawn from the schema's bounds."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.networks.policy_network import Outputs, PolicyNetwork
from graft.agents.training.evaluate import eval_mode
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.errors import GraftError

Array = NDArray[Any]

BATCH = 8  # environments that are played at once
CHUNK = 256  # states in a forward pass
FAR = 3.0  # standard deviation of features without bounds, where states are drawn


class Recording(NamedTuple):
    """States and what evaluation plays in them.

    Attributes:
        observations: (N, *obs_shape).
        actions: greedy, as the environment receives them in evaluation, (N,) or (N, A).
        outputs: of the network, on the CPU.
        source: a phrase: where the states are from.
    """

    observations: Array
    actions: Array
    outputs: Outputs
    source: str


def record(network: PolicyNetwork, task: Task, count: int, seed: int) -> Recording:
    """``count`` states of ``task`` and the actions of evaluation with ``deterministic``.

    The policy is sampled from on the way, as in training, so that the states are not those of one path alone. Where the
    task cannot be made here, states are drawn from the bounds of the schema.
    """
    with eval_mode(network):
        try:
            observations, source = _played(network, task, count, seed), f"recorded by playing {task}"
        except GraftError as error:
            observations = drawn(network.schemas.observation, count, np.random.default_rng(seed))
            source = f"drawn from the bounds of the schema, as the task cannot be made here: {error}"
        return reference(network, observations, source)


@torch.no_grad()
def reference(network: PolicyNetwork, observations: Array, source: str) -> Recording:
    """What evaluation plays in these states; ``network`` is in eval mode."""
    device = next(network.parameters()).device
    chunks = torch.split(torch.as_tensor(observations), CHUNK)
    actions = [network.act(chunk.to(device), None, deterministic=True).cpu() for chunk in chunks]
    outputs = [network(chunk.to(device)) for chunk in chunks]
    spread = [
        o.log_std if o.log_std.dim() > 1 else o.log_std.expand_as(o.action) for o in outputs if o.log_std is not None
    ]
    together = Outputs(
        torch.cat([o.action.cpu() for o in outputs]),
        torch.cat(spread).cpu() if spread else None,
        torch.cat([o.value.cpu() for o in outputs]),
    )
    return Recording(observations, torch.cat(actions).numpy(), together, source)


def _played(network: PolicyNetwork, task: Task, count: int, seed: int) -> Array:
    generator, found, rows = torch.Generator().manual_seed(seed), [], 0
    with closing(make(task, BATCH, seed, observation=network.schemas.observation)) as env:
        obs, _ = env.reset()
        while rows < count:
            found.append(np.array(obs))
            rows += len(obs)
            obs = env.step(network.act(obs, generator).numpy())[0]
    return np.concatenate(found)[:count]


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
