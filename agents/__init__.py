"""Encoders, policy networks, checkpoints and the training backends.

Importing this package imports torch but no reinforcement-learning library; those load with their backend. `Squad` is
imported when it is first asked for, as it needs all that exports need.
"""

from typing import TYPE_CHECKING, Any

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork

if TYPE_CHECKING:
    from graft.agents.serving.squad import Squad

__all__ = ["Checkpoint", "NetworkConfig", "PolicyNetwork", "Squad"]


def __getattr__(name: str) -> Any:
    if name != "Squad":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from graft.agents.serving.squad import Squad

    return Squad
