"""A task as words of a command line: ``Graft/Platform-v0 gravity=0.5 levels=[0,200]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graft.envs.core.task import Task
from graft.envs.core.yaml_text import parse_yaml
from graft.errors import GraftError, printable, shown


def value_of(text: str) -> Any:
    """``text`` as YAML, also numbers such as ``1e5``, which YAML 1.1 takes for text; raises GraftError."""
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise GraftError(f"{shown(text)} is not a YAML value: {printable(str(error), 300)}.") from error
    try:
        return float(value) if isinstance(value, str) and value[:1] in "+-.0123456789" else value
    except ValueError:
        return value


def split_words(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words that stand alone, and those of the form ``key=value`` as keyword arguments; raises GraftError."""
    alone, options = [], {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            alone.append(word)
        elif not key.isidentifier() or key in options:
            raise GraftError(f"'{word}' is not allowed; give each keyword once, as in slip=0.3.")
        else:
            options[key] = value_of(text)
    return alone, options


def task_of(words: Sequence[str]) -> Task:
    """The task that words name: one id, and keyword arguments; raises GraftError."""
    alone, options = split_words(words)
    if len(alone) != 1:
        given = f"got {', '.join(alone)}" if alone else "got none"
        raise GraftError(f"Give one task, such as Graft/Maze-v0, and its keywords as key=value; {given}.")
    return Task(alone[0], options)
