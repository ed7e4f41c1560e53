"""EnvPool's C++ environments, by ids such as ``envpool/MiniGrid-DoorKey-6x6-v0``.

EnvPool takes seeds only when a pool is built, so a reset with a seed builds a new one (a millisecond for 64 of
MiniGrid). One environment that raises ends the run, and no time limit can be kept: a pool is one C++ object.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from graft.envs.adapters.envpool.batch import MAX_SEED, EnvPoolVectorEnv
from graft.envs.adapters.envpool.tasks import FORM, LIMIT, check, codecs_of
from graft.envs.adapters.minigrid.missions import KEYWORD as MISSION
from graft.envs.adapters.minigrid.missions import is_grid, split_mission
from graft.envs.adapters.packages import INSTALL
from graft.envs.adapters.procgen.adapter import is_procgen, is_procgen_name
from graft.envs.adapters.procgen.qt import found_qt, load_qt
from graft.envs.adapters.scores import known_bounds
from graft.envs.adapters.spaces import first_line
from graft.envs.core.action_masks import split_masks
from graft.envs.core.faults import FaultLog, split_rules
from graft.envs.core.keywords import unknown_keyword
from graft.envs.core.task import Adapter, BatchOptions, Bounds, Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError, unknown

PREFIX = "envpool/"
INSTALL_QT = "pip install 'graft-rl[procgen]'"

_POOL_KEYWORDS = {
    *("num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset"),
    *("base_path", "seed", "env_seed", "gym_reset_return_info", "mission_bytes", "debug"),
    *FORM,
}
"""Keywords of the pool, not of the game: Graft sets them, or they would change which game it is."""


class EnvPoolAdapter(Adapter):
    """MiniGrid and BabyAI, and every other EnvPool task whose observation is of boxes of reals, images and numbers."""

    prefix = PREFIX
    reads_channels = True

    def ids(self) -> Iterable[str]:
        try:
            return [PREFIX + name for name in _library().list_all_envs()]
        except GraftError:
            return []

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        library = _library()
        name = task.id.removeprefix(PREFIX)
        if name not in library.list_all_envs():
            raise unknown("task", task.id, self.ids())
        rules, rest = split_rules(task.id, task.kwargs, offered=("limit", "window"))
        masks, rest = split_masks(task.id, rest)
        task = Task(task.id, rest)
        task, mission = split_mission(task) if is_grid(name) else (task, None)
        spec = _spec(library, name, task)
        config = spec.config._asdict()
        played, limit = _with_limit(name, config, task)

        def build(seeds: list[int]) -> Any:
            threads = max(1, min(options.max_threads, options.num_envs))
            sizes = {"num_envs": options.num_envs, "num_threads": threads}
            pool = library.make(name, env_type="gymnasium", env_seed=seeds, **sizes, **played)
            _spaces(pool)  # a pool builds its spaces when first asked, and keeps them
            return pool

        codecs = codecs_of(task, name, config, *_spaces(spec), mission, options.channels, masks)
        log = FaultLog(task.id, rules)
        env = EnvPoolVectorEnv(build, options, codecs, is_grid(name), log, limit)
        env.step_limit = int(config[LIMIT]) if config[LIMIT] < MAX_SEED else None
        return env

    def bounds(self, task: Task) -> Bounds | None:
        return known_bounds(task.id.removeprefix(PREFIX), task.kwargs)

    def states(self) -> dict[str, str]:
        if find_spec("envpool") is None:
            missing = f"EnvPool is not installed; install it with `{INSTALL}`."
            return {"EnvPool": missing, "EnvPool's Procgen": missing}
        qt = "ready" if found_qt() else f"Qt 5 is not installed; install it with `{INSTALL_QT}`."
        return {"EnvPool": "ready", "EnvPool's Procgen": qt}

    def counts(self) -> dict[str, int]:
        names = [task_id.removeprefix(PREFIX) for task_id in self.ids()]
        procgen = sum(is_procgen_name(name) for name in names)
        return {"EnvPool": len(names), "EnvPool's Procgen": procgen}


def _library() -> Any:
    """EnvPool, imported when the first of its tasks is asked for."""
    load_qt()
    try:
        import envpool
    except ImportError as error:
        raise GraftError(f"EnvPool is not installed; install it with `{INSTALL}`.") from error
    return envpool


def _spec(library: Any, name: str, task: Task) -> Any:
    try:
        defaults = library.make_spec(name).config._asdict()
    except ImportError as error:
        hint = f"it needs Qt 5; install it with `{INSTALL_QT}`." if "Qt 5" in str(error) else str(error)
        raise GraftError(f"EnvPool cannot load '{task.id}': {hint}") from error
    allowed = sorted(defaults.keys() - _POOL_KEYWORDS)
    for keyword in task.kwargs:
        if keyword not in allowed:
            raise unknown_keyword(f"keyword of {task.id}", keyword, [*allowed, MISSION] if is_grid(name) else allowed)
    if defaults["max_num_players"] != 1:
        raise GraftError(f"'{task.id}' has {defaults['max_num_players']} players; allowed: EnvPool tasks with 1.")
    check(task, defaults | task.kwargs)
    try:
        return library.make_spec(name, **task.kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in task.kwargs.items())
        raise GraftError(f"Task '{task.id}' does not accept {given}: {first_line(error)}.") from error


def _with_limit(name: str, config: dict[str, Any], task: Task) -> tuple[dict[str, Any], int | None]:
    """Keywords of the pool, and the time limit that is kept outside of it, if one is; see `EnvPoolVectorEnv.step`."""
    kwargs, limit = dict(task.kwargs), int(config[LIMIT])
    if is_grid(name):
        return kwargs, None
    if is_procgen(config):  # it ends its games itself, and reports any end after the limit as one by it
        return kwargs, kwargs.pop(LIMIT, None)
    if limit >= MAX_SEED:
        return kwargs, None
    return kwargs | {LIMIT: limit + 1}, limit


def _spaces(spec_or_pool: Any) -> tuple[Any, Any]:
    """Observation and action space. EnvPool writes bounds in double precision into float32 boxes, hence the filter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        return spec_or_pool.observation_space, spec_or_pool.action_space


ADAPTERS.add("envpool", EnvPoolAdapter())
