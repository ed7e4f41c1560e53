"""What a checkpoint of an experiment holds beside its network: the heads of all its tasks, and a method's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from agents.checkpoint import Checkpoint
from transfer.method import PART, TransferMethod, method_name

HEADS = "heads"
"""The part that holds the heads of the tasks that were learned so far, as ``<index>.<tensor>``."""

Heads = Mapping[str, torch.Tensor]


def numbered(heads: Heads, task: int) -> dict[str, torch.Tensor]:
    """The heads of the task of index ``task``, under the names of the archive."""
    return {f"{task}.{name}": tensor for name, tensor in heads.items()}


def of_task(archive: Heads, task: int) -> dict[str, torch.Tensor]:
    """The heads of the task of index ``task``, under the names of a network."""
    prefix = f"{task}."
    return {name.removeprefix(prefix): t for name, t in archive.items() if name.startswith(prefix)}


def archive_of(source: Checkpoint | None) -> Heads:
    """Heads of all tasks that ``source`` learned, its last one's included; a first task's are the network's own."""
    if source is None:
        return {}
    own = {name: t for name, t in source.tensors.items() if name.startswith(("policy.", "value."))}
    return source.parts.get(HEADS) or numbered(own, 0)


def tasks_learned(archive: Heads) -> int:
    """Of how many tasks there are heads."""
    return len({name.partition(".")[0] for name in archive})


def inherited(source: Checkpoint, method: TransferMethod | None) -> Checkpoint:
    """``source`` as ``method`` takes it over: what another method left beside the network is not for it to read.

    To such a method, all that the network has learned is one first task.
    """
    before = (source.record.get("stage") or {}).get("method")
    if method is None or before is None or before["name"] == method_name(method):
        return source
    return replace(source, parts={name: part for name, part in source.parts.items() if name not in (PART, HEADS)})
