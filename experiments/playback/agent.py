"""An agent from a checkpoint, and whether it can play a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.core.task_string import split_words
from graft.envs.factory import schemas
from graft.errors import GraftError


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint's folder, given that or the folder of the stage that made it."""
    inner = folder / "checkpoint"
    return inner if not (folder / MANIFEST).exists() and inner.is_dir() else folder


def agent_and_task(words: Sequence[str]) -> tuple[Checkpoint, Task]:
    """The agent and the task that ``CHECKPOINT [TASK] [key=value ...]`` means; without a task, the agent's own.

    Raises:
        GraftError: other words, or no such checkpoint.
    """
    alone, keywords = split_words(words)
    if not 1 <= len(alone) <= 2:
        raise GraftError("Give a checkpoint, then perhaps a task's id, then perhaps its keywords as key=value.")
    checkpoint = Checkpoint.load(find_checkpoint(Path(alone[0])))
    own = checkpoint.task
    return checkpoint, Task(alone[1], keywords) if len(alone) == 2 else Task(own.id, {**own.kwargs, **keywords})


def check_fit(network: Schemas, task: Task) -> list[str]:
    """Names that the agent looks for and ``task`` never shows; they stay zero.

    Raises:
        GraftError: an agent of such schemas can't play the task; the text names the difference.
    """
    shown = schemas(task)
    differences = [*_unseen(network.observation, shown.observation), *_unplayable(network.action, shown.action)]
    if differences:
        raise GraftError(f"This agent cannot play {task}: {'; '.join(differences)}.")
    return [name for name in network.observation.names if name not in shown.observation.names]


def _unseen(own: ObservationSchema, shown: ObservationSchema) -> Iterator[str]:
    def layout(schema: ObservationSchema) -> str:
        return f"{schema.kind} of {schema.dtype}" + "".join(f" x {n}" for n in schema.shape[1:])

    if layout(own) != layout(shown):
        yield f"it sees {layout(own)}, the task shows {layout(shown)}"
    elif new := [name for name in shown.names if name not in own.names]:
        yield f"the task shows {', '.join(new)}, the agent knows only {', '.join(own.names)}"


def _unplayable(own: ActionSchema, taken: ActionSchema) -> Iterator[str]:
    if (own.kind, own.names, own.sizes) != (taken.kind, taken.names, taken.sizes):
        yield f"it plays {own.kind} actions ({', '.join(own.names)}), the task takes {taken.kind} ones " + (
            f"({', '.join(taken.names)})"
        )
    elif (own.low, own.high) != (taken.low, taken.high):
        yield f"its actions lie from {own.low} to {own.high}, the task's from {taken.low} to {taken.high}"
