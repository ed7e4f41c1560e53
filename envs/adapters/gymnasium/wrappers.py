"""Wrappers by name: Gymnasium's own, or ``module:Class``, with arguments as YAML can write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from graft.envs.adapters.packages import missing_package
from graft.envs.adapters.spaces import first_line
from graft.envs.core.parts import Kind, import_module, load_plugin, plugins
from graft.envs.core.wrappers import WRAPPERS, parse_wrappers
from graft.envs.supervision.supervised_batch import SingleEnv
from graft.errors import GraftError, unknown

Make = Callable[..., Any]

GROUP, KIND = "graft.wrappers", Kind("wrapper", gym.Wrapper)
"""Of entry points of distributions, by whose names wrappers are known as Gymnasium's are."""

REFUSED = {
    "NormalizeObservation": "its statistics would be others in training and in evaluation; give network: {options: "
    "{normalise: true}} instead",
    "NormalizeReward": "its statistics would be others in training and in evaluation; give algorithm: {reward_scale: "
    "0.1} instead",
    "Autoreset": "environments are reset here when their episodes end; leave it out",
}
"""Wrapper of Gymnasium -> why it can't be used."""


class Wrapper(NamedTuple):
    """A wrapper that was found, with its arguments as its constructor takes them."""

    name: str
    make: Make
    arguments: Mapping[str, Any]

    def around(self, env: SingleEnv, task: str) -> SingleEnv:
        """``env`` in it; raises GraftError where it refuses the environment or its arguments."""
        try:
            wrapped = self.make(env, **self.arguments)
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise missing_package(f"Wrapper '{self.name}' of task '{task}'", error) from error
        except Exception as error:  # constructors refuse in many ways
            given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items()) or "no arguments"
            raise GraftError(
                f"Wrapper '{self.name}' cannot wrap task '{task}' with {given}: {type(error).__name__}, "
                f"{first_line(error)}."
            ) from error
        if not isinstance(wrapped, gym.Env):
            raise GraftError(f"Wrapper '{self.name}' of task '{task}' gives no gymnasium.Env; name one that does.")
        return wrapped

    @property
    def keeps_rewards(self) -> bool:
        """Whether returns stay on the scale of the task without it, as far as its class says."""
        if not isinstance(self.make, type) or issubclass(self.make, gym.RewardWrapper):
            return False
        of_gymnasium = self.make.__module__.startswith("gymnasium.wrappers.")
        return of_gymnasium or issubclass(self.make, gym.ObservationWrapper | gym.ActionWrapper)


def find_wrappers(given: Any, task: str) -> tuple[Wrapper, ...]:
    """The wrappers that a task asks for, the innermost first.

    Raises:
        GraftError: another form, a name, module or argument that is not there, or one that can't be used.
    """
    return tuple(_found(name, arguments, task) for name, arguments in parse_wrappers(given, task))


def _found(name: str, arguments: Mapping[str, Any], task: str) -> Wrapper:
    make = _own(name, task) if ":" in name or "." in name else _by_name(name, task)
    for refused, why in REFUSED.items():
        if isinstance(make, type) and issubclass(make, getattr(gym.wrappers, refused)):
            raise GraftError(f"Wrapper '{name}' of task '{task}' can't be used: {why}.")
    parameters = list(inspect.signature(make).parameters.values())[1:]  # the first one is the environment
    takes = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in takes:
                raise unknown(f"argument of {name}", str(key), takes)
    lacking = [p.name for p in takes.values() if p.default is p.empty and p.name not in arguments]
    if lacking:
        raise GraftError(
            f"Wrapper '{name}' of task '{task}' needs {' and '.join(lacking)}; give {WRAPPERS}: [{{{name}: "
            f"{{{', '.join(f'{key}: ...' for key in lacking)}}}}}]."
        )
    asked = {key: str(takes[key].annotation) if key in takes else "" for key in arguments}
    return Wrapper(name, make, {key: _as_asked(value, asked[key], task) for key, value in arguments.items()})


def _by_name(name: str, task: str) -> Make:
    """One of Gymnasium's, or of an entry point."""
    offered = [n for n in gym.wrappers.__all__ if n[0].isupper()]  # the others are modules
    others = plugins(GROUP)
    if name not in offered and name in others:
        plugin: Make = load_plugin(others[name], KIND)
        return plugin
    if name not in offered:
        raise GraftError(
            f"{unknown(f'wrapper of {task}', name, [*offered, *others])} Those of other packages are named "
            f"module:Class."
        )
    try:
        make: Make = getattr(gym.wrappers, name)
    except ImportError as error:
        raise missing_package(f"Wrapper '{name}' of task '{task}'", error) from error
    return make


def _own(name: str, task: str) -> Make:
    """What ``module:Class`` or ``module.Class`` names, also of a function that gives an environment."""
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    imported = import_module(module, f"wrapper '{name}' of task '{task}'")
    make: Make | None = getattr(imported, attribute, None)
    if not callable(make):
        raise unknown(f"wrapper of {module}", attribute, _callables(imported))
    return make


def _callables(module: Any) -> Iterable[str]:
    return [name for name, entry in vars(module).items() if callable(entry) and not name.startswith("_")]


def _as_asked(value: Any, annotation: str, task: str) -> Any:
    """A value of YAML as what the constructor's annotation names: lists are tuples, unless it asks for another type."""
    if isinstance(value, str) and "Callable" in annotation and ":" in value:
        return _own(value, task)
    if not isinstance(value, list):
        return value
    if "tuple" not in annotation.lower() and "ndarray" in annotation:
        return np.asarray(value)
    return value if "list" in annotation.lower() and "tuple" not in annotation.lower() else _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
