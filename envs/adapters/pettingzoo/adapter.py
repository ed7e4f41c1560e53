"""PettingZoo's environments, by their modules: ``pettingzoo:mpe2.simple_tag_v3``.

Parallel ones, and those in which agents take turns (AEC) as PettingZoo converts them: a step of a turn-based game is
the move of one agent, and what the others choose does nothing.

Agents that share the front of their names are a team: ``adversary_0`` and ``adversary_1`` are ``adversary``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

from graft.envs.adapters.builtin.teams import OPTIONS, check_same_step, string_option
from graft.envs.adapters.packages import missing_package, state
from graft.envs.adapters.pettingzoo.batch import PettingZooBatch
from graft.envs.adapters.pettingzoo.masks import with_masks
from graft.envs.adapters.pettingzoo.process import ProcessParallelEnv
from graft.envs.adapters.spaces import first_line, metadata_of
from graft.envs.core.action_masks import KEYWORD as MASKS
from graft.envs.core.action_masks import split_masks
from graft.envs.core.faults import KEYWORD, split_rules
from graft.envs.core.keywords import unknown_keyword
from graft.envs.core.rewards import WEIGHTS, split_weights
from graft.envs.core.task import Adapter, BatchOptions, Task, TaskVectorEnv
from graft.envs.core.team_rows import TeamRows
from graft.envs.core.teams import ALL, TeamEnv
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError, unknown

PREFIX = "pettingzoo:"


class PettingZooAdapter(Adapter):
    """Modules with a ``parallel_env`` or an ``env``: ``team`` (default: all agents), ``opponents``, ``faults``,
    ``action_masks``, and their options.
    """

    prefix = PREFIX
    renders = has_teams = reads_channels = True

    def ids(self) -> Iterable[str]:
        return _in_package("mpe2")

    def states(self) -> dict[str, str]:
        return {"PettingZoo MPE": state("mpe2", "MPE")}

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        check_same_step(task, options.autoreset)
        team, opponents = string_option(task, "team", ALL), string_option(task, "opponents", "random")
        batch = _make_batch(task, options.num_envs, team, options.channels)
        try:
            return TeamRows(batch, team, options.num_envs, opponents, options.seed)
        except GraftError:
            batch.close()
            raise

    def modules(self, task: Task) -> tuple[str, ...]:
        return (_module(task.id).__name__,)

    def make_teams(self, task: Task, options: BatchOptions) -> TeamEnv:
        return _make_batch(task, options.num_envs, None, options.channels)


def _make_batch(task: Task, rows: int, team: str | None, channels: Any) -> PettingZooBatch:
    """As many environments as hold ``rows`` agents of ``team``, or as many as ``rows`` where that is None."""
    module = _module(task.id)
    own = _keywords(module)[0]
    wanted, kwargs = split_masks(task.id, task.kwargs, own)
    rules, rest = split_rules(task.id, kwargs, own)
    weights, rest = split_weights(task.id, rest, own)
    options = {name: value for name, value in rest.items() if name not in OPTIONS}
    make: Callable[[], Any] = partial(_make_one, module, task.id, options, wanted)
    if rules.step_timeout is not None:
        make = partial(ProcessParallelEnv, make, task.id, rules.step_timeout)
    return PettingZooBatch(make, task.id, rules, rows, team, weights, channels, masks_said=wanted is not None)


def _in_package(package: str) -> list[str]:
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    names = [module.name for module in pkgutil.iter_modules(places or [])]
    return [f"{PREFIX}{package}.{name}" for name in names if re.search(r"_v\d+$", name)]


def _module(task_id: str) -> Any:
    name = task_id.removeprefix(PREFIX)
    package = name.rpartition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # of how PettingZoo's own modules are made
            module = importlib.import_module(name)
    except ImportError as error:
        missing = error.name or ""
        known = _in_package(package) if package and missing.startswith(package) and missing != package else []
        if known or missing == "" or not name:
            raise unknown("task", task_id, known or ADAPTERS["pettingzoo"].ids()) from error
        raise missing_package(f"Task '{task_id}'", error) from error
    except Exception as error:  # whatever the code of a user's module raises
        raise GraftError(f"Module '{name}' of task '{task_id}' cannot be imported: {first_line(error)}.") from error
    if _creator(module) is None:
        raise GraftError(f"Module '{name}' of task '{task_id}' has no parallel_env or env, as PettingZoo's have.")
    return module


def _creator(module: Any) -> Callable[..., Any] | None:
    """What makes its parallel environments, else those in which agents take turns (AEC)."""
    found = [getattr(module, name, None) for name in ("parallel_env", "env")]
    return next((creator for creator in found if callable(creator)), None)


def _parallel(env: Any, task_id: str) -> Any:
    """A parallel environment; one in which agents take turns is converted by PettingZoo.

    Raises GraftError for anything else.
    """
    from pettingzoo import AECEnv
    from pettingzoo.utils.conversions import aec_to_parallel, turn_based_aec_to_parallel

    if not isinstance(env, AECEnv):
        if hasattr(env, "agent_selection") or not hasattr(env, "possible_agents"):
            raise GraftError(f"Task '{task_id}' gives a {type(env).__name__}, which is no environment of PettingZoo.")
        return env
    cycles = metadata_of(env).get("is_parallelizable", False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a `render_mode` defined")
        converted: Any = aec_to_parallel(env) if cycles else turn_based_aec_to_parallel(env)
        return converted


def _make_one(module: Any, task_id: str, options: dict[str, Any], masks: bool | None) -> Any:
    """One environment, as `with_masks`; the error for a keyword that it does not take names the nearest one."""
    try:
        creator = _creator(module)
        assert creator is not None
        env = _parallel(creator(**options), task_id)
    except GraftError:
        raise
    except ImportError as error:
        raise missing_package(f"Task '{task_id}'", error) from error
    except Exception as error:  # constructors refuse keywords in many ways
        allowed, takes_others = _keywords(module)
        for name in options:
            if not takes_others and name not in allowed:
                if name == "render_mode":
                    raise GraftError(f"Task '{task_id}' cannot be drawn: it takes no render_mode.") from error
                offered = [*allowed, *OPTIONS, KEYWORD, WEIGHTS, MASKS]
                raise unknown_keyword(f"keyword of {task_id}", name, offered) from error
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise GraftError(f"Task '{task_id}' does not accept {given or 'no options'}: {first_line(error)}.") from error
    drawn, offered = options.get("render_mode"), metadata_of(env).get("render_modes") or ["nothing"]
    if drawn is not None and drawn not in offered:
        raise GraftError(f"Task '{task_id}' cannot be drawn as {drawn}; it offers: {', '.join(offered)}.")
    return with_masks(env, task_id, masks)


def _keywords(module: Any) -> tuple[list[str], bool]:
    """Keywords of the environment's constructors, and whether it takes others as well."""
    found: list[str] = []
    for creator in (_creator(module), getattr(module, "raw_env", None)):
        if creator is not None:
            parameters = inspect.signature(creator).parameters.values()
            found += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return found, False
    return found, True


ADAPTERS.add("pettingzoo", PettingZooAdapter())
