"""Whether an imported network plays what the original plays, on observations of the task."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from graft.agents.importing.foreign import ForeignPolicy, outputs, played
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.parity import CHUNK, TOLERANCE, gaps
from graft.errors import GraftError


class Parity(NamedTuple):
    """Result of `compare`.

    ``worst``: largest of the `gaps` between the actions. ``equal``: observations with the same action, of box actions
    within `TOLERANCE`.
    """

    observations: int
    equal: int
    worst: float

    @property
    def holds(self) -> bool:
        return self.worst <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "tolerance": TOLERANCE}


@torch.no_grad()
def compare(policy: ForeignPolicy, network: PolicyNetwork, observations: NDArray[Any]) -> Parity:
    """The greedy actions of both on ``observations`` (N, *shape); the original's by the
    library that can run its file, else by its own tensors (`outputs`).
    """
    actions = network.schemas.action
    equal, worst = 0, 0.0
    for begin in range(0, len(observations), CHUNK):
        obs = torch.as_tensor(observations[begin : begin + CHUNK])
        _, forbidden = network.split(obs)
        if policy.run is None:
            found = outputs(policy, network.schemas.observation, obs)
            theirs = played(policy, found, actions, forbidden)
        else:
            theirs, found = policy.run(policy, obs, forbidden)
        ours = network.act(obs, None, deterministic=True)
        gap = gaps(ours.numpy(), theirs.numpy(), found.numpy(), actions)
        same = gap <= TOLERANCE if actions.kind == "box" else (theirs == ours).reshape(len(obs), -1).numpy()
        equal += int(same.all(1).sum())
        largest = float(gap.max(initial=0))
        worst = max(worst, largest if math.isfinite(largest) else math.inf)  # what is not a number is no parity
    return Parity(len(observations), equal, worst)


def require(parity: Parity) -> None:
    """Raise GraftError where the network plays something else."""
    if not parity.holds:
        raise GraftError(
            f"The imported network plays otherwise than the file's on {parity.observations - parity.equal:,} of "
            f"{parity.observations:,} observations (worst difference {parity.worst:.2g}, allowed {TOLERANCE:g}); "
            f"nothing was written."
        )
