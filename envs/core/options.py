"""Options of a dataclass, checked against its annotations: what is wrong comes as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from graft.errors import GraftError, shown, unknown

T = TypeVar("T")


def sentence(where: str, detail: ErrorDetails) -> str:
    """One of pydantic's findings about ``where``, as a sentence."""
    if detail["type"] == "missing":
        return f"{where} is missing."
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}={shown(detail['input'])} is not allowed: {message[0].lower()}{message[1:]}."


def build_options(kind: str, cls: type[T], options: Mapping[str, Any]) -> T:
    """An instance of the frozen dataclass ``cls`` with ``options`` checked against its annotations.

    Raises GraftError for an unknown option, or a wrong type or range; ``kind`` is their owner ("method frozen").
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
        raise GraftError(sentence(f"{kind}: {detail['loc'][0]}", detail)) from error
