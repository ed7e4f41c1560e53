"""Saving and restoring optimisers and freezing, for both backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.networks.encoder import Encoder


def tensors(named: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in named.items()}


def arrays(saved: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in saved.items()}


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by ``<parameter index>/<name>``, and JSON values."""
    state = optimiser.state_dict()
    entries = {(str(i), key): value for i, entry in state["state"].items() for key, value in entry.items()}
    held = {f"{i}/{key}": value for (i, key), value in entries.items() if isinstance(value, torch.Tensor)}
    plain = [[i, key, value] for (i, key), value in entries.items() if not isinstance(value, torch.Tensor)]
    return held, {"groups": state["param_groups"], "plain": plain}


def restore_optimiser(optimiser: torch.optim.Optimizer, held: dict[str, torch.Tensor], rest: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in held.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    for index, key, value in rest["plain"]:
        state.setdefault(int(index), {})[key] = value
    groups = [
        # JSON has no tuples, and Adam has some.
        {k: tuple(v) if isinstance(now.get(k), tuple) else v for k, v in saved.items()}
        for saved, now in zip(rest["groups"], optimiser.param_groups, strict=True)
    ]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def restore_freezing(policy: torch.nn.Module, trains: list[str], frozen: Mapping[str, int]) -> None:
    for name, module in policy.named_modules():
        if isinstance(module, Encoder):
            module.frozen_blocks = frozen[name]
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in trains)


def freezing(policy: torch.nn.Module) -> dict[str, Any]:
    """Which parameters train, and how many blocks of each encoder are frozen: JSON values."""
    return {
        "trains": [name for name, p in policy.named_parameters() if p.requires_grad],
        "frozen": {name: m.frozen_blocks for name, m in policy.named_modules() if isinstance(m, Encoder)},
    }
