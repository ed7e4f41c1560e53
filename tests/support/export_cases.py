"""Agents of every kind of observation and action, of random weights, and what evaluation plays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from graft.agents.export.recording import drawn, reference
from graft.agents.networks.normaliser import normalisers
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.schema import ActionSchema, Schemas, flag_names, masked
from support.progressive_columns import columns
from support.tiny_tasks import box, discrete, multi, parts, pixels, planes, small_config, vector

ACTS, CHOICES = discrete("up", "down", "act"), multi(move=3, fire=2)
REALS = ActionSchema("box", ("free", "half", "both"), (-math.inf, 0.0, -2.0), (math.inf, math.inf, 6.0))
BOUNDED = ActionSchema("box", ("turn", "push"), (-2.0, 0.0), (2.0, 5.0))
TORQUES = box(["turn", "push"])


def varied(network, seed=0):
    """Random weights of such size that other states mean other actions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2 / fan_in**0.5)
    return network


def network_of(observation, actions, distribution=None, encoder=None, **options):
    """Random weights, and statistics where it has a normaliser: of features of other scales, one never seen."""
    config = small_config("vector" if encoder == "mlp" else observation.plain.kind, **options)
    config = replace(config, encoder=encoder, distribution=distribution)
    network = varied(PolicyNetwork(Schemas(observation, actions), config, 0))
    for normaliser in normalisers(network):
        normaliser.running_mean.copy_(torch.linspace(-0.5, 0.5, len(normaliser.running_mean)))
        normaliser.running_var.copy_(torch.logspace(-4, 1, len(normaliser.running_var)))
        normaliser.running_count.fill_(100)
        normaliser.running_count[-1] = 0
    return network.eval()


def with_masks(observation, actions):
    return masked(observation, flag_names(actions))


V = vector(["a", "b", "c", "d"])
NETWORKS = {
    "discrete": lambda: network_of(V, ACTS, normalise=True),
    "multi-discrete": lambda: network_of(V, CHOICES),
    "box": lambda: network_of(V, REALS, normalise=True),
    "squashed": lambda: network_of(V, BOUNDED, "squashed"),
    "torques": lambda: network_of(V, TORQUES),
    "bounded": lambda: network_of(V, BOUNDED),
    "greedy": lambda: network_of(V, ACTS, "greedy", activation="relu"),
    "masked": lambda: network_of(with_masks(planes("ab"), ACTS), ACTS),
    "masked choices": lambda: network_of(with_masks(V, CHOICES), CHOICES),
    "parts": lambda: network_of(parts(["a", "b"]), ACTS, normalise=True),
    "masked parts": lambda: network_of(with_masks(parts(["a", "b"]), ACTS), ACTS),
    "planes": lambda: network_of(planes("abc", 6, 5), ACTS),
    "pixels": lambda: network_of(pixels("rgb"), ACTS),
    "two columns": lambda: varied(columns(2)).eval(),
}


def recorded(network, count=200):
    states = drawn(network.schemas.observation, count, np.random.default_rng(1))
    return reference(network, states, "drawn")
