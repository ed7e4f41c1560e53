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
from graft.agents.training.backend import Batch, CriticLayers, Grads
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS, Built, FromSource, State, Step
from graft.transfer.state import group


def _weighted(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name within ``module`` and weight of its Linear and Conv2d layers, in order."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield f"{name}.weight", layer.weight


def layers(encoder: Encoder, name: str | None = None) -> list[tuple[str, torch.Tensor]]:
    """Name and weight of the one layer of each block of the encoder ``name``.

    Raises GraftError where a block has none or several.
    """
    layers = []
    for index, block in enumerate(encoder.blocks):
        weights = list(_weighted(block))
        if len(weights) != 1:
            raise GraftError(
                f"redo needs encoders whose blocks have one Linear or Conv2d each; "
                f"block {index} of '{name}' has {len(weights)}."
            )
        layers.append((f"blocks.{index}.{weights[0][0]}", weights[0][1]))
    return layers


def head_layers(network: PolicyNetwork) -> list[tuple[str, torch.Tensor]]:
    """Name and weight of the heads' layers that read the features."""
    heads = []
    for name, head in (("policy", network.policy), ("value", network.value)):
        own = list(_weighted(head))
        # Without hidden layers, every output layer of the head reads the features.
        heads += [(f"{name}.{layer}", weight) for layer, weight in (own[:1] if len(head.hidden) else own)]
    return heads


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
    layer, above the last block in the first layers of both heads and of critics that share the encoder, become zero.
    Critics with an encoder of their own have its dormant units reinitialised as well; their target follows as always.
    Between two dormant units the fresh weight
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
        layers(built.network.encoder, built.network.config.encoder)
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
        seed = int(state["seed"] + updates)
        grads = _recycled(network, batch, grads, self.tau, seed)
        if batch.critics is not None and batch.critics.encoder is not network.encoder:
            _recycle_critics(network, batch.critics, batch.observations, self.tau, seed)
        return Step(grads, state)


def _recycled(network: PolicyNetwork, batch: Batch, grads: Grads, tau: float, seed: int) -> Grads:
    """Reinitialise dormant units in place; returns the gradients with zeros for the changed weights."""
    grads = {name: g.clone() for name, g in grads.items()}
    above = [[(weight, grads.get(f"encoder.{name}"))] for name, weight in layers(network.encoder)[1:]]
    above.append([(weight, grads.get(name)) for name, weight in head_layers(network)])
    if batch.critics is not None and batch.critics.encoder is network.encoder:
        above[-1] += [(weight, weight.grad) for weight in batch.critics.first]
    _recycle(network, network.encoder, batch.observations, above, group(grads, "encoder"), tau, seed)
    return grads


def _recycle_critics(
    network: PolicyNetwork, critics: CriticLayers, observations: torch.Tensor, tau: float, seed: int
) -> None:
    """The same for the encoder that only the critics read, whose gradients are its parameters' own."""
    above = [[(weight, weight.grad)] for _, weight in layers(critics.encoder)[1:]]
    above.append([(weight, weight.grad) for weight in critics.first])
    grads = {name: p.grad for name, p in critics.encoder.named_parameters() if p.grad is not None}
    _recycle(network, critics.encoder, observations, above, grads, tau, seed)


@torch.no_grad()
def _recycle(
    network: PolicyNetwork,
    encoder: Encoder,
    observations: torch.Tensor,
    above: list[list[tuple[torch.Tensor, torch.Tensor | None]]],
    grads: Grads,
    tau: float,
    seed: int,
) -> None:
    """Reinitialise the dormant units of an encoder of the network's layout, and zero the gradients of what changed.

    Args:
        above: weight and gradient of the layers that read each block's outputs; columns beyond these are kept.
        grads: by the encoder's names.
    """
    weights = layers(encoder)
    seen = network.split(observations)[0]
    asleep = dormant(encoder, [len(weight) for _, weight in weights], seen, tau)
    for (_, weight), outgoing, units in zip(weights, above, asleep, strict=True):
        if not all(other.requires_grad for other in [weight, *(reader for reader, _ in outgoing)]):
            units[:] = False
    if not any(bool(units.any()) for units in asleep):
        return
    for index, (units, outgoing) in enumerate(zip(asleep, above, strict=True)):
        for tensor in (t for pair in outgoing for t in pair if t is not None):
            # Of a unit: one column, or the cells of a flattened channel.
            outputs = encoder.out_dim if index == len(asleep) - 1 else tensor.shape[1]
            tensor[:, :outputs][:, units.repeat_interleave(outputs // len(units))] = 0
    fresh = build_network(network.schemas, network.config, seed).encoder.state_dict()
    own, kept = encoder.state_dict(), statistics(encoder)
    for index, units in enumerate(asleep):
        for name in own:
            if name in kept:
                continue
            if name.startswith(f"blocks.{index}.") and own[name].shape[:1] == units.shape:
                own[name][units] = fresh[name].to(own[name])[units]
                if name in grads:
                    grads[name][units] = 0
