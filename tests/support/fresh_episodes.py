"""Watches how RLlib's runners begin fresh episodes: after how many steps of the old ones, and with which state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.agents.checkpoints.snapshot import SavedState
from graft.agents.rllib.remote_training import RemoteTraining


def lengths(training: RemoteTraining) -> NDArray[np.int64]:
    """Steps of all current episodes, in the order of the environments."""
    found = training.runners(lambda runner: np.concatenate([c.lengths for c in runner.collectors.values()]))
    return np.concatenate(found)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[SavedState]:
    """Check that fresh episodes are played to where the old ones were; collects what trainings held before."""
    held: list[SavedState] = []
    begin = RemoteTraining.begin_episodes

    def watched(training: RemoteTraining, *rest: Any) -> None:
        held.append(training.save())
        before = lengths(training)
        begin(training, *rest)
        np.testing.assert_array_equal(lengths(training), before)

    monkeypatch.setattr(RemoteTraining, "begin_episodes", watched)
    return held
