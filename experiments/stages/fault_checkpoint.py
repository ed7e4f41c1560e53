"""What is kept of a stage whose environments fail too often: the network as it is at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training.backend import TrainResult
from graft.envs.core.faults import TooManyFaults
from graft.experiments.store.records import AT_FAULT


@contextmanager
def rescued(folder: Path, save: Callable[[TrainResult, Path], Checkpoint]) -> Iterator[None]:
    """Where environments fail too often, write a checkpoint into the stage's ``folder`` and say so in the error.

    Args:
        save: makes and writes it, from what is known of the training: how far it came, and its faults.
    Raises:
        TooManyFaults: the same, with the checkpoint's path in its message.
    """
    try:
        yield
    except TooManyFaults as error:
        made = save(TrainResult(error.env_steps, 0.0, [], faults=dict(error.faults)), folder / AT_FAULT)
        steps = made.record["env_steps"]
        error.args = (f"{error} The network as it was after {steps:,} env steps is in {folder / AT_FAULT}.",)
        raise
