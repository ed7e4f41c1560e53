"""Whether an imported network plays what the original plays, on observations of the task."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.importing.foreign import ForeignPolicy, outputs, played
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.random_actions import sample
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError

TOLERANCE = 1e-5
"""Of box actions, relative to those above 1; also of logits, where two actions are equally good."""

CHUNK = 256  # observations of a forward pass in double precision


class Parity(NamedTuple):
    """Result of `compare`.

    ``worst``: largest difference of box actions, relative to those above 1; of others, how much better the original
    finds its own action where the two differ, relative to the size of its outputs. ``equal``: observations with the
    same action, of box actions within `TOLERANCE`.
    """

    observations: int
    equal: int
    worst: float

    @property
    def holds(self) -> bool:
        return self.worst <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "tolerance": TOLERANCE}


def record(network: PolicyNetwork, env: TaskVectorEnv, count: int, seed: int) -> NDArray[Any]:
    """``count`` observations (count, *shape) or more of a game, played by the network in every second environment and
    at random in the others.
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
        own = network.act(obs, None, deterministic=True).cpu().numpy()
        actions[greedy] = own[greedy].astype(actions.dtype)
        obs, _, _, _, infos = env.step(actions)
    return np.concatenate(seen)[:count]


@torch.no_grad()
def compare(policy: ForeignPolicy, network: PolicyNetwork, observations: NDArray[Any]) -> Parity:
    """The greedy actions of both on ``observations`` (N, *shape); the original's by the
    library that can run its file, else by its own tensors (`outputs`).
    """
    schemas = network.schemas
    equal, worst = 0, 0.0
    for begin in range(0, len(observations), CHUNK):
        obs = torch.as_tensor(observations[begin : begin + CHUNK])
        _, forbidden = network.split(obs)
        if policy.run is None:
            found = outputs(policy, schemas.observation, obs)
            theirs = played(policy, found, schemas.action, forbidden)
        else:
            theirs, found = policy.run(policy, obs, forbidden)
        ours = network.act(obs, None, deterministic=True)
        if schemas.action.kind == "box":
            gap = (theirs - ours.double()).abs() / theirs.abs().clamp(min=1)
            equal += int((gap.amax(-1) <= TOLERANCE).sum())
        else:
            gap = _regret(found, theirs, ours, schemas.action.sizes)
            equal += int((theirs == ours).reshape(len(obs), -1).all(1).sum())
        largest = float(gap.max()) if len(gap) else 0.0
        worst = max(worst, largest if math.isfinite(largest) else math.inf)  # what is not a number is no parity
    return Parity(len(observations), equal, worst)


def _regret(found: torch.Tensor, theirs: torch.Tensor, ours: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """How much larger the outputs of the original's choices are than those of ours, relative to the largest."""
    gaps = []
    theirs, ours = theirs.reshape(len(found), -1), ours.reshape(len(found), -1)
    for k, part in enumerate(torch.split(found, list(sizes) or found.shape[-1], -1)):
        best, other = (part.gather(1, chosen[:, k : k + 1]) for chosen in (theirs, ours))
        gaps.append((best - other) / part.abs().amax(1, keepdim=True).clamp(min=1))
    return torch.cat(gaps, 1)


def require(parity: Parity) -> None:
    """Raise GraftError where the network plays something else."""
    if not parity.holds:
        raise GraftError(
            f"The imported network plays otherwise than the file's on {parity.observations - parity.equal:,} of "
            f"{parity.observations:,} observations (worst difference {parity.worst:.2g}, allowed {TOLERANCE:g}); "
            f"nothing was written."
        )
