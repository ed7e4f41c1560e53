"""What a method or an algorithm is, and what its options mean: ``python -m experiments.run --describe NAME``."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from agents.sb3 import ALGORITHMS
from envs.errors import unknown
from transfer.method import METHODS


def describe(name: str) -> str:
    """The documentation of a method or an algorithm, then its options with types and defaults.

    Raises:
        GraftError: nothing is called ``name``.
    """
    kinds: dict[str, Any] = dict(METHODS.items()) | dict(ALGORITHMS.items())
    if name not in kinds:
        raise unknown("method or algorithm", name, kinds)
    kind = kinds[name]
    hints = get_type_hints(kind)
    lines = [name, "", *str(inspect.getdoc(kind)).splitlines(), "", "Options and defaults:"]
    lines += [f"    {option.name}: {_type(hints[option.name])} = {_default(option)}" for option in fields(kind)]
    inherited = [base for base in kind.__mro__[1:] if "Attributes:" in str(base.__doc__)]
    for base in inherited:
        text = inspect.cleandoc(str(base.__doc__))
        meanings = text[text.index("Attributes:") :].splitlines()[1:]
        lines += ["", f"As in {base.__name__}:", *(line for line in meanings if line.startswith("    "))]
    return "\n".join(lines)


def _type(hint: Any) -> str:
    return inspect.formatannotation(hint).replace("typing.", "").replace("collections.abc.", "")


def _default(option: Any) -> str:
    if option.default_factory is not MISSING:
        return str(option.default_factory())
    return "(required)" if option.default is MISSING else str(option.default)
