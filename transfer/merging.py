"""Merging of agents that were fine-tuned from one base: averages, task arithmetic, TIES, and how far they conflict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.normaliser import statistics, varied
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.diagnostics import conflict, relative_distance
from graft.transfer.state import Tensors
from graft.transfer.transplant import carried


def average(vectors: torch.Tensor) -> torch.Tensor:
    """The mean of the task vectors, which is that of the weights: a uniform soup (Wortsman et al. 2022).

    Args:
        vectors: task vectors (T, P), what each of T agents changed of the base's P weights.
    Returns:
        What the merged agent changes, (P,).
    """
    return vectors.mean(0)


def task_arithmetic(vectors: torch.Tensor, scale: float = 0.4) -> torch.Tensor:
    """``scale`` times the sum of the task vectors (Ilharco et al. 2023). Arguments as of `average`.

    0.4 is what Yadav et al. 2023 take where it cannot be chosen by validation.
    """
    return scale * vectors.sum(0)


def ties(vectors: torch.Tensor, keep: float = 0.2, scale: float = 1.0) -> torch.Tensor:
    """Trim, elect signs, and average what agrees (TIES; Yadav et al. 2023, algorithm 1). Arguments as of `average`.

    Of each vector the share ``keep`` with the largest magnitude is kept, the rest is zero. The sign of a weight is that
    of the kept values' sum; the result is ``scale`` times the mean of those that have it, 0 where they cancel.
    """
    count = max(1, round(keep * vectors.shape[1]))
    least = vectors.abs().topk(count, dim=1).values[:, -1:]
    trimmed = torch.where(vectors.abs() >= least, vectors, 0.0)
    agree = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
    return scale * torch.where(agree, trimmed, 0.0).sum(0) / agree.sum(0).clamp(min=1)


MERGED = "the merged agent"
"""Its name in messages and tables."""

MERGES: dict[str, Callable[..., torch.Tensor]] = {"average": average, "task_arithmetic": task_arithmetic, "ties": ties}
"""Name -> the method; what follows its task vectors are its options."""


class LayerConflict(NamedTuple):
    """How agents' changes to a layer conflict.

    Attributes:
        layer: the module's name; empty for all weights together.
        values: how many weights it has.
        moved: ‖θ - θ_base‖ / ‖θ_base‖ of each agent.
        disagree: of the weights that two agents or more changed, the share of which they did in different directions;
            None where there are none.
        cosine: of the angle between two task vectors, the mean over all pairs; 0 where one of them is zero.
    """

    layer: str
    values: int
    moved: tuple[float, ...]
    disagree: float | None
    cosine: float


@dataclass(frozen=True)
class Merged:
    """``network``: laid out as the first agent's. ``conflicts``: all weights together, then layer by layer."""

    network: PolicyNetwork
    conflicts: tuple[LayerConflict, ...]


def merge(base: Checkpoint, agents: Mapping[str, Checkpoint], method: str, **options: Any) -> Merged:
    """Merge what ``agents`` changed of ``base``'s weights; stems and heads are matched by name.

    Statistics of observations are not merged by the method: they become those of all observations that the base and the
    agents were trained on (`pooled`).

    Args:
        agents: name, for messages -> an agent; two or more.
        method: of `MERGES`, with its ``options``.
    Raises:
        GraftError: networks, observations or actions that differ, or weights that are not finite.
    """
    first = next(iter(agents.values()))
    check_alike(first, {"the base": base, **agents})
    start = laid_out(base, first.schemas)
    moved = [laid_out(agent, first.schemas) for agent in agents.values()]
    network = build_network(first.schemas, first.network, seed=0)
    weights = [name for name, _ in network.named_parameters()]
    seen = statistics(network)
    _check_merged_whole(network, {*weights, *seen})
    vectors = torch.stack([_flat(ours, weights) - _flat(start, weights) for ours in moved])
    result = _flat(start, weights) + MERGES[method](vectors, **options)
    parts = torch.split(result, [start[name].numel() for name in weights])
    tensors = {name: part.view_as(start[name]).to(start[name]) for name, part in zip(weights, parts, strict=True)}
    for count in (name for name in seen if name.endswith("running_count")):
        names = [count, *(f"{count.removesuffix('count')}{what}" for what in ("mean", "var"))]
        read = [torch.stack([ours[name].double() for name in names]) for ours in (start, *moved)]
        tensors |= {name: t.to(start[name]) for name, t in zip(names, pooled(read[0], read[1:]), strict=True)}
    check_finite(MERGED, tensors)
    network.load_exactly(tensors)
    return Merged(network, tuple(conflicts(start, moved, weights)))


def laid_out(agent: Checkpoint, schemas: Schemas) -> Tensors:
    """An agent's tensors for the same observations and actions in another order."""
    return carried(agent, agent.tensors, schemas, new_channels="zero", rename={}, meaning="weights")


def pooled(base: torch.Tensor, agents: list[torch.Tensor]) -> torch.Tensor:
    """Statistics of all that the base and the agents have seen; the base's observations are counted once.

    Args:
        base, agents: number, mean and variance of each feature, (3, D) float64. Those of an agent go on from the
            base's, but where a feature did not vary there: then they are the agent's alone (`Normaliser`).
    Returns:
        The same of all observations together; the base's where nothing was counted.
    """
    known = base[0] * varied(base[1], base[2])

    def sums(count: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Number, sum and sum of squares about the base's mean."""
        distance = seen[1] - base[1]
        return torch.stack([count, count * distance, count * (seen[2] + distance.square())])

    total = before = sums(known, base)
    for agent in agents:
        goes_on = agent[0] >= known
        total = total + sums(agent[0], agent) - torch.where(goes_on, before, 0.0)
    count = total[0].clamp(min=1)
    shift = total[1] / count
    var = (total[2] / count - shift.square()).clamp(min=0)
    return torch.where(total[0] > 0, torch.stack([total[0], base[1] + shift, var]), base)


def conflicts(start: Tensors, moved: list[Tensors], weights: list[str]) -> list[LayerConflict]:
    """All weights together, then layer by layer."""
    layers: dict[str, list[str]] = {"": weights}
    for name in weights:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    return [_conflict(layer, start, moved, names) for layer, names in layers.items()]


def _conflict(layer: str, start: Tensors, moved: list[Tensors], names: list[str]) -> LayerConflict:
    before, now = _flat(start, names), [_flat(ours, names) for ours in moved]
    vectors = torch.stack(now) - before
    signs = vectors.sign()
    both = (signs != 0).sum(0) >= 2
    opposed = (signs.max(0).values > 0) & (signs.min(0).values < 0)
    cosines = [conflict({layer: a}, {layer: b}) for a, b in combinations(vectors, 2)]
    return LayerConflict(
        layer,
        len(before),
        tuple(relative_distance({layer: ours}, {layer: before}) for ours in now),
        float(opposed[both].double().mean()) if both.any() else None,
        sum(cosines) / len(cosines),
    )


def _flat(tensors: Tensors, names: list[str]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in names])


def check_alike(first: Checkpoint, all_of_them: Mapping[str, Checkpoint]) -> None:
    """Raise GraftError where one of them has not the first one's network, observations and actions, in any order, or
    weights that are not finite.
    """
    for name, other in all_of_them.items():
        check_finite(name, other.tensors)
        if other.network.kind != NetworkConfig().kind:
            raise GraftError(f"{name} is a {other.network.kind} network of several columns; give agents of one.")
        for what, ours, theirs in zip(("network", "observations", "actions"), _form(first), _form(other), strict=True):
            if ours != theirs:
                raise GraftError(
                    f"All must have the same network, and show and play the same names; the {what} of {name} "
                    f"are {theirs}, those of the first agent {ours}."
                )


def check_finite(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    if broken := sorted(tensor for tensor, t in tensors.items() if not t.isfinite().all()):
        raise GraftError(f"Numbers of {name} are not finite: {', '.join(broken[:3])}.")


def _form(agent: Checkpoint) -> tuple[Any, Any, Any]:
    """What must be equal, but for the order of names."""
    shown, played = agent.schemas.observation, agent.schemas.action
    observations = (shown.kind, shown.shape, shown.dtype, sorted(shown.names))
    return agent.network.to_json(), observations, (played.kind, sorted(played.names))


def _check_merged_whole(network: PolicyNetwork, merged: set[str]) -> None:
    if others := sorted(network.state_dict().keys() - merged):
        raise GraftError(
            f"The encoder '{network.config.encoder}' keeps {', '.join(others)}, neither weights nor statistics of "
            f"observations, so agents with it cannot be merged."
        )
