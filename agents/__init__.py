"""Encoders, policy networks, checkpoints and the training backends.

Importing this package imports torch but no reinforcement-learning library; those load with their backend.
"""

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.serving.squad import Squad

__all__ = ["Checkpoint", "NetworkConfig", "PolicyNetwork", "Squad"]
