"""PPO's rollouts where rows of the batch are out of play at times: such steps are left out of every minibatch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

TRAINED_ON = ("observations", "actions", "values", "log_probs", "advantages", "returns")
"""Fields of the library's buffer that minibatches are made of."""


class MaskedRolloutBuffer(RolloutBuffer):
    """The library's rollout buffer, whose minibatches hold only the steps of rows that were in play.

    Leaving steps out does not change the advantages of the others: a row leaves play with the end of its episode, where
    the library's sum over later steps stops.

    Args:
        acted: which rows were in play in the step that is being added, (N,) bool.
    """

    def __init__(self, *args: Any, acted: Callable[[], NDArray[np.bool_]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acted = acted

    def reset(self) -> None:
        """Empty it."""
        super().reset()
        self._live = np.zeros((self.buffer_size, self.n_envs), np.bool_)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """A step of all rows."""
        self._live[self.pos] = self._acted()
        super().add(*args, **kwargs)

    @property
    def any_live(self) -> bool:
        """Whether a row was in play in any of its steps."""
        return bool(self._live.any())

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches in random order, until every step of a row in play was in one."""
        if not self.generator_ready:
            live = self.swap_and_flatten(self._live).reshape(-1)
            for name in TRAINED_ON:
                setattr(self, name, self.swap_and_flatten(getattr(self, name))[live])
            self.generator_ready = True
        whole = self.buffer_size, self.n_envs
        self.buffer_size, self.n_envs = len(self.actions), 1  # the library counts steps by these
        try:
            yield from super().get(batch_size)
        finally:
            self.buffer_size, self.n_envs = whole
