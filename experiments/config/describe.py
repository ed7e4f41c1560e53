"""Documentation of methods and algorithms and their options: ``graft run --describe NAME``."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from graft.agents.networks.activation import OWN
from graft.agents.training.algorithm import Algorithm
from graft.envs.core.parts import Kind, import_part, is_named
from graft.errors import GraftError, unknown
from graft.experiments.config.backends import BACKENDS, DEFAULT, backend
from graft.transfer.method import METHODS, TransferMethod


def describe(name: str) -> str:
    """The documentation of a method or an algorithm, then its options with types and defaults.

    Args:
        name: an algorithm's may begin with its backend, ``rllib/ppo``; else the default backend's comes first.
    Raises:
        GraftError: nothing is called ``name``.
    """
    kind = _find(name)
    hints = get_type_hints(kind)
    lines = [name, "", *str(inspect.getdoc(kind)).splitlines(), "", "Options and defaults:"]
    lines += [f"    {option.name}: {_type(hints[option.name])} = {_default(option)}" for option in fields(kind)]
    if issubclass(kind, Algorithm):
        lines += ["", f"Network, unless the config says otherwise: network: {{activation: {kind.activation or OWN}}}"]
    for base in kind.__mro__[1:]:
        _, heading, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        if heading:
            described = [line for line in attributes.splitlines() if line.startswith("    ")]
            lines += ["", f"As in {base.__name__}:", *described]
    return "\n".join(lines)


def _find(name: str) -> Any:
    """The class of a method or an algorithm; imports other backends than the default only where they are needed."""
    if is_named(name):
        return _own(name)
    kinds: dict[str, Any] = {**dict(METHODS.items()), **dict(backend(DEFAULT).ALGORITHMS.items())}
    if name in kinds:
        return kinds[name]
    for other in BACKENDS:
        kinds |= {f"{other}/{key}": kind for key, kind in backend(other).ALGORITHMS.items()}
    for key, kind in kinds.items():
        if name == key or key.endswith(f"/{name}"):
            return kind
    raise unknown("method or algorithm", name, kinds)


def _own(name: str) -> Any:
    part = import_part(name, Kind("method or algorithm", object, instances=True))
    if isinstance(part, type) and issubclass(part, TransferMethod | Algorithm):
        return part
    bases = " or ".join(f"{base.__module__}.{base.__name__}" for base in (TransferMethod, Algorithm))
    raise GraftError(f"'{name}' is no method and no algorithm: it must be a subclass of {bases}.")


def _type(hint: Any) -> str:
    return inspect.formatannotation(hint).replace("typing.", "").replace("collections.abc.", "")


def _default(option: Any) -> str:
    if option.default_factory is not MISSING:
        return str(option.default_factory())
    return "(required)" if option.default is MISSING else str(option.default)
