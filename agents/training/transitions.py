"""Transitions of a replay buffer as tensors: the part of a checkpoint that a transfer may go on learning from."""

from __future__ import annotations

import torch

TRANSITIONS = "transitions"
"""The part of a checkpoint that holds them."""

OBSERVATIONS, NEXT_OBSERVATIONS, ACTIONS = "observations", "next_observations", "actions"
REWARDS, TERMINATED = "rewards", "terminated"

TransitionTensors = dict[str, torch.Tensor]
"""Of N transitions, the oldest first: observations and next_observations (N, *shape), as the task shows them; actions,
(N, A) in [-1, 1] or numbers (N, 1) of discrete ones; rewards (N,), as the task gives them; terminated (N,), 1 where the
episode ended there, a time limit being none.
"""
