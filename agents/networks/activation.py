"""Activation functions by name, and the gains of orthogonal weights in the layers before them."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from graft.errors import unknown

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "silu", "gelu"]

OWN = "own"
"""Of a network: tanh in its heads, and in its encoder what that has by default."""

HIDDEN_GAIN = 2**0.5
"""Gain of a layer before ReLU, which keeps the mean square of its inputs; also before tanh, as in Stable-Baselines3."""

_KINDS: dict[Activation, tuple[type[nn.Module], float]] = {
    "tanh": (nn.Tanh, HIDDEN_GAIN),
    "relu": (nn.ReLU, HIDDEN_GAIN),
    # Those that keep the mean square of normal inputs as well: E[f(z)^2] ** -0.5 with z from N(0, 1).
    "leaky_relu": (nn.LeakyReLU, 1.414143),
    "elu": (nn.ELU, 1.245198),
    "silu": (nn.SiLU, 1.676532),
    "gelu": (nn.GELU, 1.533530),
}


def make(name: Activation) -> nn.Module:
    """The activation function as a module."""
    return _KINDS[name][0]()


def gain(activation: nn.Module) -> float:
    """Gain of the orthogonal weights of a layer that ``activation`` follows; `HIDDEN_GAIN` of modules not listed."""
    return next((gain for kind, gain in _KINDS.values() if type(activation) is kind), HIDDEN_GAIN)


def layer_gains(module: nn.Module) -> dict[nn.Module, float]:
    """Layer -> `gain`, for every Linear and Conv2d that another module follows in an `nn.Sequential` of ``module``."""
    gains: dict[nn.Module, float] = {}
    for chain in module.modules():
        if isinstance(chain, nn.Sequential):
            for layer, after in zip(chain, list(chain)[1:], strict=False):
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    gains[layer] = gain(after)
    return gains


def check_activation(name: str) -> None:
    """Raise GraftError where ``name`` is no activation that a network can be given."""
    if name not in (allowed := (*get_args(Activation), OWN)):
        raise unknown("activation of the network", name, allowed)
