"""Tasks in checkpoints from before the view `ego` was the default: they are made to say what they showed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.envs.builtin.engine.channels import KEYWORD, NAMES, PREFIX
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.state import SIZE
from graft.envs.core.schema import ObservationSchema

MIXTURE = "Graft/Mixture-v0"

DEFAULTS = "defaults"
"""Entry of the manifests of checkpoints, 2 where what is not said is as it is today; absent before."""


def with_view(task: Mapping[str, Any], observation: Mapping[str, Any]) -> dict[str, Any]:
    """A task's JSON with the view that its ``observation`` is of, where the task does not say it.

    Whole boards were the default, and have another size than today's; channels of the view ``ego`` were names.
    """
    schema = ObservationSchema.from_json(dict(observation))
    return _with(task, schema) if schema.kind == "planes" else dict(task)


def _with(task: Mapping[str, Any], schema: ObservationSchema) -> dict[str, Any]:
    kwargs, rows = dict(task.get("kwargs", {})), schema.shape[1]
    if task["id"] == MIXTURE:
        given = ({"id": part} if isinstance(part, str) else part for part in kwargs["tasks"])
        parts = [_with(part, schema) for part in given]
        kwargs["tasks"] = [part if part["kwargs"] else part["id"] for part in parts]
    elif task["id"] in GAMES and "view" not in kwargs and rows == SIZE:
        kwargs["view"] = "planes"
    elif task["id"] in GAMES and kwargs.get("view") == "ego" and KEYWORD not in kwargs and not _of_attributes(schema):
        kwargs |= {KEYWORD: NAMES, "radius": rows // 2}
    return {**task, "kwargs": kwargs}


def _of_attributes(schema: ObservationSchema) -> bool:
    return any(name.startswith(PREFIX) for name in schema.names)
