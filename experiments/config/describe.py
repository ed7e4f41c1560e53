"""What a method or an algorithm is, and what its options mean: ``graft run --describe NAME``.

An algorithm's name may have its backend before it: ``rllib/ppo``. Without it, Stable-Baselines3's comes first.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from graft.errors import unknown
from graft.experiments.config.backends import BACKENDS, DEFAULT, backend
from graft.transfer.method import METHODS


def describe(name: str) -> str:
    """The documentation of a method or an algorithm, then its options with types and defaults.

    Raises:
        GraftError: nothing is called ``name``.
    """
    kind = _kinds(DEFAULT).get(name) or _of_backends(name)
    hints = get_type_hints(kind)
    lines = [name, "", *str(inspect.getdoc(kind)).splitlines(), "", "Options and defaults:"]
    lines += [f"    {option.name}: {_type(hints[option.name])} = {_default(option)}" for option in fields(kind)]
    inherited = [base for base in kind.__mro__[1:] if "Attributes:" in str(base.__doc__)]
    for base in inherited:
        text = inspect.cleandoc(str(base.__doc__))
        meanings = text[text.index("Attributes:") :].splitlines()[1:]
        lines += ["", f"As in {base.__name__}:", *(line for line in meanings if line.startswith("    "))]
    return "\n".join(lines)


def _of_backends(name: str) -> Any:
    """What Stable-Baselines3 and the methods don't know, or ``BACKEND/NAME``; imports the other backends."""
    kinds = _kinds(DEFAULT)
    for other in BACKENDS:
        kinds |= {f"{other}/{key}": kind for key, kind in backend(other).ALGORITHMS.items()}
    found = kinds.get(name) or next((kind for key, kind in kinds.items() if key.endswith(f"/{name}")), None)
    if found is None:
        raise unknown("method or algorithm", name, kinds)
    return found


def _kinds(name: str) -> dict[str, Any]:
    """Methods, and the algorithms of a backend, by name."""
    return dict(METHODS.items()) | dict(backend(name).ALGORITHMS.items())


def _type(hint: Any) -> str:
    return inspect.formatannotation(hint).replace("typing.", "").replace("collections.abc.", "")


def _default(option: Any) -> str:
    if option.default_factory is not MISSING:
        return str(option.default_factory())
    return "(required)" if option.default is MISSING else str(option.default)
