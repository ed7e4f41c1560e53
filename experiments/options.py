"""Validation that speaks in sentences: pydantic's findings as one `GraftError` with the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from envs.errors import GraftError, unknown

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


def _dotted(location: tuple[int | str, ...], data: Any) -> str:
    """The path as the user would write it: pydantic also names the types it tried, which lead nowhere in the data."""
    path = []
    for part in location:
        inside = isinstance(data, Mapping) and part in data
        if inside or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            path.append(str(part))
            data = data[part]
    last = location[-1]
    if isinstance(data, Mapping) and isinstance(last, str) and last not in path:
        path.append(last)  # a missing key
    return ".".join(path)


def _sentence(where: str, detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return f"{where} is missing."
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}={detail['input']!r} is not allowed: {message[0].lower()}{message[1:]}."


def build_options(kind: str, cls: type[T], options: Mapping[str, Any]) -> T:
    """An instance of the frozen dataclass ``cls`` with ``options`` checked against its annotations.

    Args:
        kind: what the options belong to, for the message ("method frozen").
    Raises:
        GraftError: an unknown option (with the nearest valid one), or a value of the wrong type or out of range.
    """
    allowed = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in allowed:
            raise unknown(f"option of {kind}", str(name), allowed)
    try:
        return TypeAdapter(cls).validate_python(dict(options))
    except ValidationError as error:
        detail = error.errors()[0]
        if not detail["loc"]:  # the options as a whole
            raise GraftError(f"{kind}: {detail['msg'].removeprefix('Value error, ')}") from error
        raise GraftError(_sentence(f"{kind}: {detail['loc'][0]}", detail)) from error


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that holds the last key of ``location``, found by following the annotations from ``model``."""
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models named anywhere in an annotation, such as that of the entries of a list."""
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
        if detail["type"] == "extra_forbidden":
            holder = _model_at(model, detail["loc"])
            *path, key = _dotted(detail["loc"], data).split(".")
            within = f" under '{'.'.join(path)}'" if path else ""
            raise unknown(f"key in {where}{within}", key, holder.model_fields) from error
        raise GraftError(_sentence(f"{where}: {_dotted(detail['loc'], data)}", detail)) from error
