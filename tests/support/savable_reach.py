"""The hand-made task with box actions that takes seeds, with and without a state that can be saved."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from support.tiny_tasks import ReachEnv, TinyTaskAdapter


class SeededReach(ReachEnv):
    """Reach whose resets take seeds."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rngs = [np.random.default_rng(seed + i) for i in range(self.num_envs)]
        return super().reset()


class SavableReach(SeededReach):
    """Reach with random numbers that can be saved."""

    savable = True

    def save_state(self) -> dict[str, Any]:
        words = [rng.bit_generator.state for rng in self._rngs]
        text = np.frombuffer(json.dumps(words).encode().ljust(4096), np.uint8)
        return {"time": self.time.copy(), "points": self._points.copy(), "rng": text}

    def restore_state(self, saved: dict[str, Any]) -> None:
        self.time[:], self._points[:] = saved["time"], saved["points"]
        for rng, state in zip(self._rngs, json.loads(saved["rng"].tobytes()), strict=True):
            rng.bit_generator.state = state


class SeededAdapter(TinyTaskAdapter):
    """Makes that which can't be saved, whatever is asked for."""

    def make(self, task: Any, options: Any) -> SeededReach:
        return SeededReach(options.num_envs, options.seed)


class SavableAdapter(TinyTaskAdapter):
    """Makes that which can be saved, whatever is asked for."""

    def make(self, task: Any, options: Any) -> SavableReach:
        return SavableReach(options.num_envs, options.seed)
