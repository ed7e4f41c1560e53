"""Takes a training's snapshots when due, and resumes from the latest; state of environments and random numbers."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.checkpoints.learner_state import arrays, tensors
from graft.agents.checkpoints.snapshot import Savable, SavedState, Snapshot, Snapshots
from graft.errors import GraftError

CATCH_UP = 2048
"""Steps that fresh episodes are played at most before a resumed training goes on."""

LARGEST_SHARE = 0.05  # most of the time that snapshots take; large ones (replay buffers) are taken less often


def steps_to_catch_up(lengths: NDArray[np.int64]) -> int:
    """How many steps fresh episodes are played, unlearned, in place of some of which ``lengths`` (N,) were played.

    Where all episodes end by the same time limit, all environments are at the same step. Learning from first steps
    again would show the learner the episodes' beginnings more often than an undisturbed training does, and have it end
    at another phase of the episodes, where the policy differs.
    """
    return min(int(lengths.max(initial=0)), CATCH_UP)


class SavesArrays(Protocol):
    """A batch of environments, or what is around one that is not ``savable``."""

    def save_state(self) -> dict[str, NDArray[Any]]:
        """The state, copied."""

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None: ...


class EnvState:
    """A batch of environments as a `Savable`."""

    def __init__(self, env: SavesArrays) -> None:
        self._env = env

    def save(self) -> SavedState:
        return SavedState(tensors(self._env.save_state()), {})

    def restore(self, saved: SavedState) -> None:
        self._env.restore_state(arrays(saved.tensors))


class RandomState:
    """The process's random number generators: of torch (CPU and training device), numpy and Python."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None

    def save(self) -> SavedState:
        name, keys, *rest = np.random.get_state(legacy=True)
        states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys)}
        if self._cuda is not None:
            states["cuda"] = torch.cuda.get_rng_state(self._cuda)
        version, words, gauss = random.getstate()
        return SavedState(states, {"numpy": [name, *rest], "python": [version, list(words), gauss]})

    def restore(self, saved: SavedState) -> None:
        torch.set_rng_state(saved.tensors["torch"])
        if self._cuda is not None:
            torch.cuda.set_rng_state(saved.tensors["cuda"], self._cuda)
        name, *rest = saved.values["numpy"]
        np.random.set_state((name, saved.tensors["numpy"].numpy(), *rest))
        version, words, gauss = saved.values["python"]
        random.setstate((version, tuple(words), gauss))


class Snapshotter:
    """Saves and restores a training.

    Args:
        snapshots: where and when; None for none.
        parts: of the training, by name.
        begin: begins fresh episodes of a training that is resumed, given its env steps, where the parts lack the state
            of its environments (all but the built-in games), and plays `steps_to_catch_up` of them; None where they
            have it.

    Attributes:
        fresh_at: env steps at which the training was resumed with fresh episodes, in all its runs.
    """

    def __init__(
        self,
        snapshots: Snapshots | None,
        parts: Mapping[str, Savable],
        begin: Callable[[int], None] | None = None,
    ) -> None:
        self._snapshots, self._parts, self._begin = snapshots, parts, begin
        self.fresh_at: tuple[int, ...] = ()
        self._start = self._last = time.perf_counter()
        self._last_steps, self._cost = 0, 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def resume(self) -> None:
        """Restore the latest snapshot, if there is one; raises GraftError for one that does not fit, and removes it."""
        if self._snapshots is None or (snapshot := self._snapshots.latest()) is None:
            return
        try:
            for name, part in self._parts.items():
                part.restore(snapshot.parts[name])
            self._snapshots.restore(snapshot.parts["caller"], snapshot.env_steps)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError) as error:  # others are faults of a ``restore``: the snapshot stays
            shutil.rmtree(self._snapshots.folder, ignore_errors=True)
            raise GraftError(f"The snapshot in {self._snapshots.folder} does not fit; start again.") from error
        self._start -= snapshot.seconds
        self._last_steps, self.fresh_at = snapshot.env_steps, snapshot.fresh_at
        if self._begin is not None:
            self.fresh_at = (*self.fresh_at, snapshot.env_steps)
            self._snapshots.fresh(snapshot.env_steps)
            self._begin(snapshot.env_steps)

    def maybe_save(self, env_steps: int) -> None:
        """Take a snapshot where one is due; called between rollouts, after ``env_steps``."""
        plan, now = self._snapshots, time.perf_counter()
        if plan is None or not env_steps:  # before the first evaluation, its environments have no state
            return
        paused = plan.pause_at is not None and env_steps >= plan.pause_at
        waited = now - self._last >= max(plan.seconds, self._cost / LARGEST_SHARE)
        if paused or waited or (plan.env_steps is not None and env_steps - self._last_steps >= plan.env_steps):
            parts = {name: part.save() for name, part in self._parts.items()} | {"caller": plan.save()}
            Snapshot(env_steps, self.seconds, parts, self.fresh_at).write(plan.folder, plan.identity)
            self._last, self._last_steps = time.perf_counter(), env_steps
            self._cost = self._last - now
        if paused:
            plan.pause(env_steps)
