"""A training that diverges begins again at a smaller learning rate, a few times; the minibatches are kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from graft.agents.checkpoints.files import replace_file
from graft.agents.training.backend import Unstable
from graft.errors import GraftError
from graft.experiments.store.records import MINIBATCHES, SNAPSHOT

FACTOR = 0.5
"""Of the learning rate, from one try to the next."""

Divergence = Mapping[str, Any]
"""``env_steps`` and ``learning_rate`` at which a training diverged, and ``file``, the name of the minibatch's."""


class Diverged(GraftError):
    """A stage has no result, as its training diverges; ``divergences`` are those of all its tries."""

    def __init__(self, message: str, divergences: list[Divergence]) -> None:
        super().__init__(message)
        self.divergences = divergences


def divergences(folder: Path) -> list[Divergence]:
    """Those of a stage so far, by the minibatches that are kept in its folder: a kill between two tries loses none."""
    found: list[Divergence] = []
    for path in sorted(folder.glob(MINIBATCHES)):
        try:
            with safe_open(path, "numpy") as file:
                said = file.metadata()
            steps, rate = int(said["env_steps"]), float(said["learning_rate"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise GraftError(f"{path} was altered; remove the stage's folder to train it again.") from error
        found.append({"env_steps": steps, "learning_rate": rate, "file": path.name})
    return found


def keep_minibatch(folder: Path, error: Unstable, learning_rate: float) -> None:
    """Write the minibatch by which a training in ``folder`` diverged; its next try begins from the start.

    From the start, and not from the snapshot: when that was taken depends on the clock, and results must not.
    """
    shutil.rmtree(folder / SNAPSHOT, ignore_errors=True)
    said = {"env_steps": str(error.env_steps or 0), "learning_rate": repr(learning_rate), "error": str(error)}
    batch = {name: np.ascontiguousarray(array) for name, array in error.batch.items()}
    replace_file(folder / MINIBATCHES.replace("*", str(len(divergences(folder)) + 1)), save(batch, said))


def in_words(folder: Path, error: Unstable) -> str:
    """What became of a stage that has no tries left, as a sentence."""
    known = divergences(folder)
    if not known:
        return f"it diverged: {error}"
    times = f"diverged {len(known)} times, at last" if len(known) > 1 else "diverged"
    return (
        f"it {times} after {known[-1]['env_steps']:,} env steps at a learning rate of {known[-1]['learning_rate']:g}: "
        f"{error} (the minibatches by which it did are in {folder}/{MINIBATCHES})"
    )
