"""Learning rates per parameter in one optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graft.agents.networks.policy_network import PolicyNetwork
from graft.errors import GraftError


def scale_rates(optimizer: torch.optim.Optimizer, network: PolicyNetwork, rates: Mapping[str, float]) -> None:
    """Multiply the learning rate of each parameter of ``network`` in ``rates`` by its factor.

    Libraries set one learning rate on all groups. Just before each step the groups made here compute theirs from the
    first group, which holds all other parameters.

    Raises:
        GraftError: a parameter that the network or the optimiser does not have, or no parameter without a factor.
    """
    if not rates:
        return
    parameters = dict(network.named_parameters())
    first = optimizer.param_groups[0]
    held = {id(p) for p in first["params"]}
    if unknown := [name for name in rates if name not in parameters or id(parameters[name]) not in held]:
        raise GraftError(f"These parameters have a learning rate but are not trained: {', '.join(unknown)}.")
    named = {id(parameters[name]) for name in rates}
    first["params"] = [p for p in first["params"] if id(p) not in named]
    if not first["params"]:
        raise GraftError("Every parameter has a learning rate of its own; leave at least one at the common one.")
    for rate in sorted(set(rates.values())):
        group = {key: value for key, value in first.items() if key != "params"}
        chosen = [parameters[name] for name, own in rates.items() if own == rate]
        optimizer.add_param_group({**group, "params": chosen, "factor": rate})

    def follow(changed: torch.optim.Optimizer, *_: Any) -> None:
        for group in changed.param_groups[1:]:
            group["lr"] = changed.param_groups[0]["lr"] * group["factor"]

    optimizer.register_step_pre_hook(follow)
