"""A checkpoint of the network as it is when its environments fail too often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training.backend import TrainResult
from graft.envs.core.faults import TooManyFaults


@contextmanager
def checkpoint_on_faults(folder: Path, save: Callable[[TrainResult, Path], Checkpoint]) -> Iterator[None]:
    """Where environments fail too often, write a checkpoint into ``folder`` and name it in the error.

    Args:
        save: writes it, given the env steps and faults so far.
    Raises:
        TooManyFaults: the same, with the checkpoint's path in its message.
    """
    try:
        yield
    except TooManyFaults as error:
        steps = save(TrainResult(error.env_steps, 0.0, [], faults=dict(error.faults)), folder).record["env_steps"]
        error.args = (f"{error} The network as it was after {steps:,} env steps is in {folder}.",)
        raise
