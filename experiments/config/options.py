"""Validation of whole configs: pydantic's findings as one `GraftError` with the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from graft.envs.core.options import sentence
from graft.errors import GraftError, unknown

M = TypeVar("M", bound=BaseModel)


def _dotted(location: tuple[int | str, ...], data: Any) -> str:
    """The path in ``data``, without the names of types that pydantic tried."""
    path = []
    for part in location:
        known = part in data if isinstance(data, Mapping) else isinstance(data, list) and part in range(len(data))
        if known:
            path.append(str(part))
            data = data[part]
    last = location[-1]
    if isinstance(data, Mapping) and isinstance(last, str) and last not in path:
        path.append(last)  # a missing key
    return ".".join(path)


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that has the last key of ``location``, found by the annotations from ``model`` on."""
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def parse_model(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """``data`` as a strict pydantic model.

    Args:
        where: what is being read, for the message (a file's name).
    Raises:
        GraftError: an unknown key (with the nearest valid one), a missing key, or a value that is not allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:  # keys that don't go together; the whole config would be too much to quote
            raise GraftError(f"{where}: {detail['msg'].removeprefix('Value error, ')}.") from error
        if detail["type"] == "extra_forbidden":
            holder = _model_at(model, detail["loc"])
            *path, key = _dotted(detail["loc"], data).split(".")
            within = f" under '{'.'.join(path)}'" if path else ""
            raise unknown(f"key in {where}{within}", key, holder.model_fields) from error
        raise GraftError(sentence(f"{where}: {_dotted(detail['loc'], data)}", detail)) from error
