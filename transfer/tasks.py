"""A network at the service of one of several tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from agents.network import PolicyNetwork, build_network
from envs.schema import Schemas

HEADS = ("policy.", "value.")


def heads_of(network: PolicyNetwork) -> dict[str, torch.Tensor]:
    """Copies of the tensors of its heads, on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in network.state_dict().items() if name.startswith(HEADS)}


def serving(network: PolicyNetwork, heads: Mapping[str, torch.Tensor], schemas: Schemas) -> PolicyNetwork:
    """A copy of ``network`` with other heads, in eval mode.

    Args:
        heads: as `heads_of` gives them.
        schemas: of the task that these heads are for; its observations are laid out as the network's.
    Raises:
        GraftError: the heads do not fit.
    """
    device = next(network.parameters()).device
    copy = build_network(Schemas(network.schemas.observation, schemas.action), network.config, 0)
    kept = {name: t for name, t in network.state_dict().items() if not name.startswith(HEADS)}
    copy.load_exactly({**kept, **heads})
    return copy.to(device).eval()
