"""A rollout buffer for batches whose rows may be out of play: such steps are in no minibatch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

FIELDS = ("observations", "actions", "values", "log_probs", "advantages", "returns")  # what minibatches are made of


class MaskedRolloutBuffer(RolloutBuffer):
    """The library's rollout buffer with minibatches of steps in play only.

    The advantages of other steps don't change: a row leaves play at the end of its episode, where their sum ends.

    Args:
        acted: returns which rows were in play in the step that is being added, (N,) bool.
    """

    def __init__(self, *args: Any, acted: Callable[[], NDArray[np.bool_]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acted = acted

    def reset(self) -> None:
        super().reset()
        self._live = np.zeros((self.buffer_size, self.n_envs), np.bool_)

    def add(self, *args: Any, **kwargs: Any) -> None:
        self._live[self.pos] = self._acted()
        super().add(*args, **kwargs)

    @property
    def any_live(self) -> bool:
        return bool(self._live.any())

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches in random order of all steps in play."""
        if not self.generator_ready:
            live = self.swap_and_flatten(self._live).reshape(-1)
            for name in FIELDS:
                setattr(self, name, self.swap_and_flatten(getattr(self, name))[live])
            self.generator_ready = True
        whole = self.buffer_size, self.n_envs
        self.buffer_size, self.n_envs = len(self.actions), 1  # the library counts steps by these
        try:
            yield from super().get(batch_size)
        finally:
            self.buffer_size, self.n_envs = whole
