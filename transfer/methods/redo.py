"""ReDo: dormant units are reinitialised during training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import Encoder
from graft.agents.networks.normaliser import statistics
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.agents.training.algorithm import Count, NotNegative
from graft.agents.training.backend import Batch, Grads
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS, Built, FromSource, State, Step


def _weighted(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name within ``module`` and weight of its Linear and Conv2d layers, in order."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield f"{name}.weight", layer.weight


def layers(network: PolicyNetwork) -> list[tuple[str, torch.Tensor]]:
    """Name and weight of the one layer of each block of the encoder; raises GraftError where it has none or several."""
    layers = []
    for index, block in enumerate(network.encoder.blocks):
        weights = list(_weighted(block))
        if len(weights) != 1:
            raise GraftError(
                f"redo needs encoders whose blocks have one Linear or Conv2d each; "
                f"block {index} of '{network.config.encoder}' has {len(weights)}."
            )
        layers.append((f"encoder.blocks.{index}.{weights[0][0]}", weights[0][1]))
    return layers


def readers(network: PolicyNetwork) -> list[list[tuple[str, torch.Tensor]]]:
    """Name and weight of the layers that read each block's outputs: the next block's, or the heads' first."""
    heads = []
    for name, head in (("policy", network.policy), ("value", network.value)):
        own = list(_weighted(head))
        # Without hidden layers, every output layer of the head reads the features.
        heads += [(f"{name}.{layer}", weight) for layer, weight in (own[:1] if len(head.hidden) else own)]
    return [[layer] for layer in layers(network)[1:]] + [heads]


@torch.no_grad()
def dormant(encoder: Encoder, units: list[int], observations: torch.Tensor, tau: float) -> list[torch.Tensor]:
    """Which units of each block are dormant: ``mean |h_i| <= tau * mean over the block's units of mean |h_j|``.

    Means are over observations (N, *obs_shape) and a channel's cells; h is the block's output.

    Args:
        units: number of units of each block.
    Returns:
        Per block, booleans (units,).
    """
    training = encoder.training
    encoder.eval()  # running statistics must not count the batch twice
    hidden, asleep = encoder.scale(observations), []
    for block, count in zip(encoder.blocks, units, strict=True):
        hidden = block(hidden)
        activity = hidden.abs().reshape(len(hidden), count, -1).mean((0, 2))
        asleep.append(activity <= tau * activity.mean())
    encoder.train(training)
    return asleep


@METHODS.register("redo")
@dataclass(frozen=True, kw_only=True)
class ReDo(FromSource):
    """Fine-tuning that regularly gives dormant units of the encoder fresh incoming and zero outgoing weights.

    A unit is an output of a block's one weighted layer: a feature, or a channel with its group of columns in a linear
    layer above. Its incoming weights, bias and normalisation become those of a fresh network; its columns in the next
    layer, above the last block in both heads' first layers, become zero. Between two dormant units the fresh weight
    stands, as zeros would cut the new unit off. Frozen blocks, and those whose outputs a frozen layer reads, are
    skipped. The gradients of these entries are zero in that update; Adam's moments are not reset.

    Attributes:
        every: updates between two examinations, counted anew on every task.
        tau: a unit is dormant below this share of its layer's mean activity; 0: only where it is exactly silent.
    Source: Sokar et al. 2023, definition 3.1 and algorithm 1, which examine a batch from the replay buffer; here it is
        the current minibatch. Their moments are reset.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"rewrites_weights"})
    conflicts: ClassVar[Mapping[str, str]] = {
        "zeroes_gradients": "rewrites the weights that the other keeps",
        "watches_source": "makes jumps that the other would credit",
    }

    every: Count = 1000
    tau: NotNegative = 0.1

    def build(self, source: Checkpoint | None, target: Schemas, architecture: NetworkConfig, seed: int) -> Built:
        """Raises as `FromSource.build` and `layers`."""
        built = super().build(source, target, architecture, seed)
        layers(built.network)
        return built

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        """``updates``: how many there were, and ``seed``: a number made of the bits of the weights; int64 scalars."""
        seed = sum(int(p.detach().cpu().float().view(torch.int32).sum()) for p in network.parameters())
        return {"updates": torch.tensor(0), "seed": torch.tensor(seed % 2**31)}

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        """Count the update; after every ``every`` of them reinitialise dormant units, in place."""
        updates = state["updates"] + 1
        state = {**state, "updates": updates}
        if int(updates) % self.every:
            return Step(grads, state)
        weights, above = layers(network), readers(network)
        asleep = dormant(network.encoder, [len(w) for _, w in weights], batch.observations, self.tau)
        for index, units in enumerate(asleep):
            if not all(weight.requires_grad for _, weight in [weights[index], *above[index]]):
                units[:] = False
        if not any(bool(units.any()) for units in asleep):
            return Step(grads, state)
        return Step(_recycled(network, asleep, grads, int(state["seed"] + updates)), state)


@torch.no_grad()
def _recycled(network: PolicyNetwork, asleep: list[torch.Tensor], grads: Grads, seed: int) -> Grads:
    """Reinitialise dormant units in place; returns the gradients with zeros for the changed weights."""
    grads = {name: g.clone() for name, g in grads.items()}
    for units, outgoing in zip(asleep, readers(network), strict=True):
        for name, weight in outgoing:
            for tensor in (weight, grads.get(name)):
                if tensor is not None:
                    # Of a unit: one column, or the cells of a flattened channel.
                    tensor[:, units.repeat_interleave(tensor.shape[1] // len(units))] = 0
    fresh = build_network(network.schemas, network.config, seed).state_dict()
    own, kept = network.state_dict(), statistics(network)
    for index, units in enumerate(asleep):
        for name in own:
            if name in kept:
                continue
            if name.startswith(f"encoder.blocks.{index}.") and own[name].shape[:1] == units.shape:
                own[name][units] = fresh[name].to(own[name])[units]
                if name in grads:
                    grads[name][units] = 0
    return grads
