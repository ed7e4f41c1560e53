"""Encoders, policy networks, checkpoints and the training backends.

Importing this package imports torch but no reinforcement-learning library; those load with their backend.
"""

from agents.checkpoint import Checkpoint
from agents.network import NetworkConfig, PolicyNetwork

__all__ = ["Checkpoint", "NetworkConfig", "PolicyNetwork"]
