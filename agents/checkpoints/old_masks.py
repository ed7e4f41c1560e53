"""Tasks in checkpoints from before action masks were shown: they are made to say that theirs are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.envs.builtin.engine.game import GAMES
from graft.envs.core.action_masks import KEYWORD
from graft.envs.core.task import Task
from graft.envs.factory import schemas


def without_masks(task: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A task's JSON with ``action_masks: false`` where its environment has masks that the agent never saw.

    Whether it has some is asked of the environment; a task that cannot be made here stays as it is.
    """
    kwargs = dict(task.get("kwargs", {}))
    of_choices = manifest["action"]["kind"] in ("discrete", "multi")
    if task["id"] in GAMES or KEYWORD in kwargs or not of_choices:
        return dict(task)
    try:
        masked = schemas(Task.from_json(dict(task))).observation.kind == "masked"
    except Exception:  # whatever a third party's package raises
        return dict(task)
    return {**task, "kwargs": {**kwargs, KEYWORD: False}} if masked else dict(task)
