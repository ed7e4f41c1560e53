"""Names in checkpoints of earlier versions, which counted categories and channels, under the names of today."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from graft.envs.core.naming import with_names
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError

_COUNTED = re.compile(r"(^|/)[^/]+\.(obs|plane)_\d+$")
_COUNTED_ACTION = re.compile(r"\.action_\d+(=\d+)?$")
_CHANNELS = (("frame_0",), ("frame_0", "frame_1", "frame_2"), ("red", "green", "blue", "alpha"))


def translated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of a checkpoint with names of version 1, under those that its task has today.

    Names are translated by place, which needs the task's environment: a category's value is nowhere else. Where the
    task cannot be made, or looks different today, names stay as they are, which is said.

    Raises:
        GraftError: its planes were read with the channels on the wrong side.
    """
    data, old = dict(manifest), _schemas(manifest)
    if not (_may_differ(old.observation) or _actions_may_differ(old.action)):
        return data
    task = Task.from_json(manifest["task"])
    try:
        today = schemas(task)
    except Exception as error:  # whatever a third party's package raises
        _say(task, f"that cannot be made ({error})")
        return data
    for then, now in zip(_pictures(old.observation), _pictures(today.observation), strict=False):
        if then.shape != now.shape and sorted(then.shape) == sorted(now.shape):
            raise GraftError(
                f"This checkpoint learned {task} with planes of shape {then.shape}, whose channels were taken from the "
                f"wrong side; they are {now.shape}, so train it again."
            )
    if _layout(old) != _layout(today):
        _say(task, "that looks different today")
        return data
    new = dict(zip(old.observation.names, today.observation.names, strict=True))
    data["observation"] = with_names(old.observation, today.observation.names).to_json()
    data["action"] = {**manifest["action"], "names": list(today.action.names)}
    if "stems" in data:
        data["stems"] = [{**stem, "names": [new.get(n, n) for n in stem["names"]]} for stem in manifest["stems"]]
    data["network"] = _renamed(manifest["network"], new)
    return data


def _schemas(manifest: Mapping[str, Any]) -> Schemas:
    return Schemas(ObservationSchema.from_json(manifest["observation"]), ActionSchema.from_json(manifest["action"]))


def _say(task: Task, why: str) -> None:
    warnings.warn(
        f"A checkpoint of an earlier version names categories or channels of {task} by their place, and keeps these "
        f"names, as they can be translated only with its task, {why}; give 'rename' where a target has other names.",
        stacklevel=4,
    )


def _may_differ(schema: ObservationSchema) -> bool:
    """Whether names of today may be others: of features from 0 to 1 that are counted, or of channels."""
    if any(part.kind == "pixels" and part.names in _CHANNELS for part in _pictures(schema)):
        return True
    ends = zip(schema.names, schema.low, schema.high, strict=True)
    return any((low, high) == (0.0, 1.0) and _COUNTED.search(name) for name, low, high in ends)


def _actions_may_differ(schema: ActionSchema) -> bool:
    return schema.kind != "box" and any(map(_COUNTED_ACTION.search, schema.names))


def _pictures(schema: ObservationSchema) -> Iterator[ObservationSchema]:
    for part in (part for _, part in schema.parts) if schema.parts else [schema]:
        if len(part.shape) == 3:
            yield part


def _layout(both: Schemas) -> tuple[Any, ...]:
    observation, action = both
    parts = tuple((name, part.kind, part.shape) for name, part in observation.parts)
    return observation.kind, observation.shape, parts, action.kind, len(action.names), action.sizes


def _renamed(network: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    """A network's description, whose earlier columns look at the same observation."""
    parts = dict(network.get("parts", {}))
    for key, part in parts.items():
        if isinstance(part, dict) and {"observation", "network"} <= part.keys():
            seen = ObservationSchema.from_json(part["observation"])
            names = tuple(new.get(name, name) for name in seen.names)
            observation = with_names(seen, names).to_json()
            parts[key] = {**part, "observation": observation, "network": _renamed(part["network"], new)}
    return {**network, "parts": parts} if parts else dict(network)
