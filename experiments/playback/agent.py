"""An agent from a checkpoint, and whether it can play a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint
from graft.agents.networks.box_units import same_units
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.core.task_string import split_words
from graft.envs.factory import schemas
from graft.errors import GraftError


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint's folder, given that folder or its stage's."""
    inner = folder / "checkpoint"
    return inner if not (folder / MANIFEST).exists() and inner.is_dir() else folder


def agent_and_task(words: Sequence[str]) -> tuple[Checkpoint, Task]:
    """Checkpoint and task of ``CHECKPOINT [TASK] [key=value ...]``; without a task, the checkpoint's own.

    Raises:
        GraftError: other words, or no checkpoint there.
    """
    alone, keywords = split_words(words)
    if not 1 <= len(alone) <= 2:
        raise GraftError("Give a checkpoint, then perhaps a task's id, then perhaps its keywords as key=value.")
    checkpoint = Checkpoint.load(find_checkpoint(Path(alone[0])))
    own = checkpoint.task
    return checkpoint, Task(alone[1], keywords) if len(alone) == 2 else Task(own.id, {**own.kwargs, **keywords})


def check_fit(network: Schemas, task: Task) -> list[str]:
    """Observations that the network knows and ``task`` does not have; they stay zero.

    Raises:
        GraftError: a network of these schemas can't play the task; the text names the differences.
    """
    shown = schemas(task)
    differences = [*_unseen(network.observation, shown.observation), *_unplayable(network.action, shown.action)]
    if differences:
        raise GraftError(f"This agent cannot play {task}: {'; '.join(differences)}.")
    return [name for name in network.observation.plain.names if name not in shown.observation.names]


def playing(network: PolicyNetwork, task: Task) -> PolicyNetwork:
    """A network that can play a task (`check_fit`), with its box actions stretched to the task's bounds."""
    own, taken = network.schemas, schemas(task).action
    if (own.action.low, own.action.high) == (taken.low, taken.high):
        return network
    stretched = replace(own.action, low=taken.low, high=taken.high)
    fitting = build_network(Schemas(own.observation, stretched), network.config, seed=0)
    fitting.load_exactly(network.state_dict())
    return fitting


def _unseen(own: ObservationSchema, shown: ObservationSchema) -> Iterator[str]:
    def layout(schema: ObservationSchema) -> str:
        schema = schema.plain
        return f"{schema.kind} of {schema.dtype}" + "".join(f" x {n}" for n in schema.shape[1:])

    if layout(own) != layout(shown):
        yield f"it sees {layout(own)}, the task shows {layout(shown)}"
    elif shown.flags and not own.flags:
        yield "the task forbids actions at times, and the agent was trained without masks (action_masks: false)"
    elif new := [name for name in shown.names if name not in own.names]:
        yield f"the task shows {', '.join(new)}, the agent knows only {', '.join(own.names)}"


def _unplayable(own: ActionSchema, taken: ActionSchema) -> Iterator[str]:
    if (own.kind, own.names, own.sizes) != (taken.kind, taken.names, taken.sizes):
        yield f"it plays {own.kind} actions ({', '.join(own.names)}), the task takes {taken.kind} ones " + (
            f"({', '.join(taken.names)})"
        )
    elif own.kind == "box" and not same_units(own, taken):
        yield f"its actions lie from {own.low} to {own.high}, the task's from {taken.low} to {taken.high}"
