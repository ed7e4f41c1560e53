"""The hand-made task with box actions, whose state can be saved."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from support.tiny_tasks import ReachEnv, TinyTaskAdapter


class SavableReach(ReachEnv):
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


class SavableAdapter(TinyTaskAdapter):
    """Makes it, whatever is asked for."""

    def make(self, task: Any, options: Any) -> SavableReach:
        return SavableReach(options.num_envs, options.seed)
