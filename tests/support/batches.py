"""Batches that are closed when the test that made them ends."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode

from graft import envs
from graft.envs import Task

OPEN: list[envs.TaskVectorEnv] = []
"""Those of the test that runs; `conftest` closes them."""


def make(task_id: str, num_envs: int = 1, seed: int = 0, mode: str = "SameStep", **kwargs: Any) -> Any:
    OPEN.append(envs.make(Task(task_id, kwargs), num_envs, seed, AutoresetMode(mode)))
    return OPEN[-1]
