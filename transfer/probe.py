"""Diagnostics during training: how a network changes on fixed states, and what a method adds to its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from graft.agents.networks.policy_network import Outputs, PolicyNetwork, Unstable, split_choices
from graft.agents.training.backend import Grads
from graft.errors import GraftError
from graft.transfer.diagnostics import (
    centred_gram,
    conflict,
    dormant_share,
    effective_rank,
    gram_alignment,
    relative_distance,
    share,
    spectrum,
)
from graft.transfer.divergence import evaluating, kl, policy_outputs

LARGEST = 1024
"""Rows or columns, whichever are fewer, of the largest layer whose spectrum is measured: time grows with their cube."""


class Probe:
    """How a network has changed since it was built, on a fixed set of states.

    Args:
        network: as built, before any training.
        observations: raw, (N, *obs_shape), N >= 2; of more than ``states``, as many, evenly spread, are taken.
        reference: network whose encoder the features are compared with; None: ``network`` as it is now. For a
            network that starts beside its source instead of from it.
        states: the most that are measured on; time grows with their square.
        audit: measure also how far the agent drifts, where ``network`` is the agent that is fine-tuned.
    Raises:
        GraftError: the observations are fewer than 2, or not what the network or the reference takes.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        observations: torch.Tensor | NDArray[Any],
        reference: PolicyNetwork | None = None,
        states: int = 256,
        audit: bool = False,
    ) -> None:
        given, reference = torch.as_tensor(observations), network if reference is None else reference
        for taker in (network, reference):
            if len(given) < 2 or tuple(given.shape[1:]) != taker.schemas.observation.shape:
                raise GraftError(
                    f"A probe has observations of shape {tuple(given.shape)}; "
                    f"give 2 or more of shape {taker.schemas.observation.shape}."
                )
        chosen = torch.linspace(0, len(given) - 1, min(states, len(given))).round().long()
        self._observations = given[chosen].cpu()
        self._grams = [centred_gram(hidden) for hidden in block_outputs(reference, self._observations)]
        self._weights = {name: effective_weights(part) for name, part in _layers(network).items()}
        self._played = _outputs(network, self._observations) if audit else None

    def measure(self, network: PolicyNetwork) -> dict[str, float]:
        """The network compared with what it was; the network and the random state are left as they are.

        Returns:
            Tag -> number. ``transfer/distance/block<i>`` and ``/policy``: relative distance of the weights to those
            at the start. ``transfer/cka/block<i>`` and ``transfer/cka``: similarity of the block's output, and of the
            features, to the reference's; a block that the reference does not have is left out.
            ``transfer/effective_rank``: of the features. ``transfer/dormant/block<i>`` and ``transfer/dormant``:
            share of dormant units in the block's output, and in all blocks' together. With ``audit``, against the
            start: ``audit/spectrum`` and ``audit/distance``, the largest of the layers' `spectrum` (up to `LARGEST`)
            and ``transfer/distance``; ``audit/actions``, the share of states in which the likeliest action is another
            (not of box actions); ``audit/kl``, the mean divergence KL(start || now) (not of Q values).
        Raises:
            Unstable: an activation is not finite any more.
            GraftError: a layer does not have the tensors that it had at the start.
        """
        outputs = block_outputs(network, self._observations)
        if not all(bool(hidden.isfinite().all()) for hidden in outputs):
            raise Unstable("the encoder's activations are not finite numbers any more; a smaller rate may help")
        weights = {name: effective_weights(part) for name, part in _layers(network).items()}
        values = {
            f"transfer/distance/{name}": relative_distance(weights.get(name, {}), self._weights.get(name, {}))
            for name in {**self._weights, **weights}
        }
        grams = [centred_gram(hidden) for hidden in outputs]
        for i, (now, before) in enumerate(zip(grams, self._grams, strict=False)):
            values[f"transfer/cka/block{i}"] = gram_alignment(now, before)
        values["transfer/cka"] = gram_alignment(grams[-1], self._grams[-1])
        values["transfer/effective_rank"] = effective_rank(outputs[-1].flatten(1))
        dormant = [dormant_share(hidden) for hidden in outputs]
        values |= {f"transfer/dormant/block{i}": part for i, part in enumerate(dormant)}
        if self._played is not None:
            values |= self._drift(network, self._played, weights)
        units = [hidden.shape[1] for hidden in outputs]
        values["transfer/dormant"] = sum(d * n for d, n in zip(dormant, units, strict=True)) / sum(units)
        return values

    def _drift(
        self, network: PolicyNetwork, before: Outputs, weights: Mapping[str, dict[str, torch.Tensor]]
    ) -> dict[str, float]:
        if not all(bool(t.isfinite().all()) for layer in weights.values() for t in layer.values()):
            raise Unstable("the network's weights are not finite numbers any more; a smaller rate may help")
        common = [(self._weights[name], now) for name, now in weights.items() if name in self._weights]
        spectra = [value for pair in common for value in spectrum(*pair, LARGEST).values()]
        values = {
            "audit/spectrum": max(spectra, default=0.0),
            "audit/distance": max((relative_distance(now, start) for start, now in common), default=0.0),
        }
        now, action = _outputs(network, self._observations), network.schemas.action
        if network.config.distribution != "greedy":
            values["audit/kl"] = float(kl(before, now, network.config.distribution, sizes=action.sizes).mean())
        if action.kind != "box":
            choices = zip(*(split_choices(of.action, action.sizes) for of in (before, now)), strict=True)
            others = torch.stack([then.argmax(1) != later.argmax(1) for then, later in choices])
            values["audit/actions"] = float(others.any(0).double().mean())
        return values


class GradientMeter:
    """What a method adds to the task's gradients, averaged over some of the updates.

    Call `start` before the method's hook and, where it returned gradients, `measure` after it.

    Args:
        every: one update of so many is measured, the first one included.
    """

    def __init__(self, every: int = 16) -> None:
        self._every, self._updates = every, 0
        self._measured: dict[str, list[float]] = {}

    def start(self, grads: Grads) -> Grads | None:
        """A copy of the task's gradients, as the hook may change them in place; None where this update is skipped."""
        self._updates += 1
        if (self._updates - 1) % self._every:
            return None
        return {name: gradient.detach().clone() for name, gradient in grads.items()}

    def measure(self, before: Grads, after: Grads, penalty: torch.Tensor | None = None) -> None:
        """Add one update: the task's gradients and the method's, both before clipping; absent parameters are zero."""
        added = {name: gradient - before[name] if name in before else gradient for name, gradient in after.items()}
        added |= {name: -gradient for name, gradient in before.items() if name not in after}
        values = {"penalty_share": share(before, added), "conflict": conflict(before, added)}
        if penalty is not None:
            values["penalty"] = float(penalty.detach())
        for name, value in values.items():
            self._measured.setdefault(name, []).append(value)

    def save(self) -> dict[str, Any]:
        return {"updates": self._updates, "found": [[name, values] for name, values in self._measured.items()]}

    def restore(self, saved: dict[str, Any]) -> None:
        self._updates, self._measured = saved["updates"], {name: list(values) for name, values in saved["found"]}

    def report(self) -> dict[str, float]:
        """Means over the updates measured since the last report; nothing where there were none.

        Returns:
            ``transfer/penalty_share`` in [0, 1], ``transfer/conflict`` in [-1, 1] (below 0: against the task), both 0
            for an update to which nothing was added; ``transfer/penalty`` where the method gives its value.
        """
        means = {f"transfer/{name}": sum(values) / len(values) for name, values in self._measured.items()}
        self._measured = {}
        return means


def block_outputs(network: PolicyNetwork, observations: torch.Tensor) -> list[torch.Tensor]:
    """Output of each block of ``network.encoder``, (N, ...), for raw observations, in eval mode and without gradients.

    They are recorded while the whole network runs, so that they include what other columns add to a block.

    Raises:
        GraftError: a block that the network does not run.
    """
    seen: dict[nn.Module, torch.Tensor] = {}

    def record(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        seen[module] = output

    blocks = list(network.encoder.blocks)
    # Where something is added inside a block, its parts are run one by one: the last of them gives the output.
    lasts = [list(_parts(block))[-1][1] for block in blocks]
    handles = [module.register_forward_hook(record) for module in {*blocks, *lasts}]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(network):
            network(observations.to(network.policy.out.weight.device))
    finally:
        for handle in handles:
            handle.remove()
    outputs = []
    for i, (block, last) in enumerate(zip(blocks, lasts, strict=True)):
        if block not in seen and last not in seen:
            raise GraftError(f"Block {i} of the encoder was not run by the network, so it cannot be measured.")
        outputs.append(seen[block] if block in seen else seen[last])
    return outputs


def _outputs(network: PolicyNetwork, observations: torch.Tensor) -> Outputs:
    """On the CPU, wherever the network is by then."""
    found = policy_outputs(network, observations)
    spread = None if found.log_std is None else found.log_std.cpu()
    return Outputs(found.action.cpu(), spread, found.value.cpu())


def effective_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters, float64 on the CPU; parametrised ones under their own names, as the forward pass sees
    them (W0 + (alpha / r) B A as ``weight``).
    """
    weights = {}
    for path, part in _parts(module):
        names = [name for name, _ in part.named_parameters(recurse=False)]
        if parametrize.is_parametrized(part):
            assert isinstance(part.parametrizations, nn.ModuleDict)
            names += part.parametrizations
        for name in names:
            tensor = getattr(part, name).detach()
            weights[f"{path}.{name}" if path else name] = tensor.to("cpu", torch.float64, copy=True)
    return weights


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (part for part in module.named_modules() if "parametrizations" not in part[0].split("."))


def _layers(network: PolicyNetwork) -> dict[str, nn.Module]:
    return {f"block{i}": block for i, block in enumerate(network.encoder.blocks)} | {"policy": network.policy}
