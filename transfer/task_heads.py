"""Heads per task: copies of a network's heads, and networks that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.envs.core.schema import Schemas
from graft.transfer.method import PART, TransferMethod, method_name
from graft.transfer.state import Tensors, group, named

HEADS = "heads"
"""The part of a checkpoint that holds the heads of all tasks learned so far, as ``<index>.<tensor>``."""

PREFIXES = ("policy.", "value.")
"""How names of a network's head tensors begin."""

Heads = Mapping[str, torch.Tensor]


def heads_of(network: PolicyNetwork) -> Tensors:
    """Copies of the tensors of its heads, on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in network.state_dict().items() if name.startswith(PREFIXES)}


def serving(network: PolicyNetwork, heads: Heads, schemas: Schemas) -> PolicyNetwork:
    """A copy of ``network`` with other heads, in eval mode.

    Args:
        heads: as `heads_of` gives them.
        schemas: of the task that these heads are for; its observations are laid out as the network's.
    Raises:
        GraftError: the heads do not fit.
    """
    device = next(network.parameters()).device
    copy = build_network(Schemas(network.schemas.observation, schemas.action), network.config, 0)
    kept = {name: t for name, t in network.state_dict().items() if not name.startswith(PREFIXES)}
    copy.load_exactly({**kept, **heads})
    return copy.to(device).eval()


def archive_of(source: Checkpoint | None) -> Heads:
    """Heads of all tasks that ``source`` learned, its last one's included; a first task's are the network's own."""
    if source is None:
        return {}
    own = {name: t for name, t in source.tensors.items() if name.startswith(PREFIXES)}
    return source.parts.get(HEADS) or named(0, own)


def of_task(archive: Heads, task: int) -> Tensors:
    """The heads of the task of index ``task``, under the names of a network."""
    return group(archive, task)


def with_task(archive: Heads, network: PolicyNetwork, task: int) -> Heads:
    """``archive`` with the network's heads as those of the task of index ``task``."""
    return {**archive, **named(task, heads_of(network))}


def tasks_learned(archive: Heads) -> int:
    """Number of tasks that heads are stored for."""
    return len({name.partition(".")[0] for name in archive})


def inherited(source: Checkpoint, method: TransferMethod | None) -> Checkpoint:
    """``source`` without the state and heads that another method than ``method`` has written.

    The network then counts as trained on one task, the first.
    """
    before = (source.record.get("stage") or {}).get("method")
    if method is None or before is None or before["name"] == method_name(method):
        return source
    return replace(source, parts={name: part for name, part in source.parts.items() if name not in (PART, HEADS)})
