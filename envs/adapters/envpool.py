"""EnvPool's C++ environments, by ids such as ``envpool/MiniGrid-DoorKey-6x6-v0``.

EnvPool's own autoreset is next-step. It takes seeds only when a pool is built, so a reset with a seed builds a new
pool (about a millisecond for 64 MiniGrid environments).

A simulation whose reward or observation is not finite is truncated and reset, as those of `envs.guard` are. One that
raises or hangs does so for the whole pool, in C++: an exception ends the run, and no time limit can be kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from envs.adapters.envpool_tasks import FORM, LIMIT, check, codecs_of
from envs.adapters.missions import KEYWORD as MISSION
from envs.adapters.missions import is_grid, mission_of
from envs.adapters.procgen import is_procgen, is_procgen_name
from envs.adapters.qt import found_qt, load_qt
from envs.adapters.scores import scores_of
from envs.adapters.spaces import (
    ActionCodec,
    AdaptedVectorEnv,
    Array,
    ObservationCodec,
    first_line,
)
from envs.errors import GraftError, unknown
from envs.factory import ADAPTERS
from envs.faults import FaultLog, FaultRules, Faults, rules_of
from envs.task import Bounds, Task, TaskVectorEnv

PREFIX = "envpool/"
INSTALL = "pip install 'graft-rl[games]'"
INSTALL_QT = "pip install 'graft-rl[procgen]'"
MAX_SEED = 2**31 - 1
"""The largest number that EnvPool holds."""

Bools = NDArray[np.bool_]
ALL = slice(None)


class Seen(NamedTuple):
    """What was shown of the environments ``which``: as the pool did, or already encoded."""

    which: Any
    shown: Any
    encoded: bool = False


_POOL_KEYWORDS = {
    *("num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset"),
    *("base_path", "seed", "env_seed", "gym_reset_return_info", "mission_bytes", "debug"),
    *FORM,
}
"""Keywords of the pool, not of the game: Graft sets them, or they would change which game it is."""


class EnvPoolVectorEnv(AdaptedVectorEnv):
    """One EnvPool in synchronous mode.

    Args:
        build: seeds (num_envs,) -> a new pool with these seeds.
        num_envs, seed, autoreset: as for `envs.make`.
        codecs: of observations and actions.
        success_ends: whether every reward ends the episode, as in MiniGrid: see `step`.
        log: counts faults.
        limit: most steps of an episode, kept here: some pools play on after it (Procgen's, the highways'), and all
            others call it the end of an episode that terminates in its very last step.
    """

    def __init__(
        self,
        build: Callable[[list[int]], Any],
        num_envs: int,
        seed: int,
        autoreset: AutoresetMode,
        codecs: tuple[ObservationCodec, ActionCodec],
        success_ends: bool = False,
        log: FaultLog | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(num_envs, seed, autoreset, *codecs)
        self._build = build
        self._success_ends = success_ends
        self._log = log or FaultLog("envpool", FaultRules())
        self._limit = limit
        self._overdue = np.zeros(num_envs, np.bool_)  # what must be reset, where the pool itself sees no need
        self._pool: Any = None
        self._seen: list[Seen] = []  # since the last step began; whole batches of pictures take long to copy

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Fresh episodes; ``options={"reset_mask": (N,) bool}`` resets only those environments.

        A seed resets all of them, whatever the mask, because it builds a new pool.

        Raises:
            GraftError: seeds of only some environments, or a seed that EnvPool cannot hold.
        """
        seeds = [s for s in self._seeds(seed) if s is not None]
        if seeds:
            if len(seeds) != self.num_envs or max(seeds) > MAX_SEED or min(seeds) < 0:
                raise GraftError(
                    f"Seeds {seeds} do not fit; EnvPool takes one seed from 0 to {MAX_SEED} "
                    f"for each of its {self.num_envs} environments."
                )
            self._pool = self._build(seeds)
            self._overdue[:] = False
            self._show(ALL, self._pool.reset()[0])
        chosen = np.flatnonzero(self._chosen(options)).astype(np.int32)
        self._overdue[chosen] = False
        if not seeds and len(chosen):
            self._show(chosen, self._pool.reset(chosen)[0])
        obs = self._shown(self._seen)
        self._seen = [Seen(ALL, obs.copy(), encoded=True)]
        return obs, {}

    def step(self, actions: Any) -> tuple[Array, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """One step of all environments; the arrays returned are the caller's to keep.

        EnvPool reports an episode that ends in the last step of its time limit as truncated only. Limits are therefore
        kept here, and the pool's is a step longer. MiniGrid's cannot be, as its rewards depend on it; but there every
        reward ends the episode, so nobody bootstraps from the state behind the goal.
        """
        before, self._seen = self._seen, []
        obs, rewards, terminated, truncated = self._play(self._decode(np.asarray(actions)))
        if not (_finite(rewards) and (obs.dtype != np.float32 or _finite(obs))):
            bad = ~(np.isfinite(rewards) & np.isfinite(obs).reshape(self.num_envs, -1).all(axis=1))
            obs[bad] = self._shown(before)[bad]
            self._seen.append(Seen(bad, obs[bad], encoded=True))
            rewards = np.where(bad, 0.0, rewards)
            terminated, truncated = terminated & ~bad, truncated | bad
            self._note(bad)
        infos: dict[str, Any] = {}
        if self._same_step and (np.count_nonzero(terminated) or np.count_nonzero(truncated)):
            ended = np.flatnonzero(terminated | truncated).astype(np.int32)
            final = np.zeros_like(obs)
            final[ended] = obs[ended]
            infos = {"final_obs": final, "_final_obs": terminated | truncated}
            obs[ended] = self._show(ended, self._pool.reset(ended)[0])
        self._log.passed(self.num_envs)
        return obs, rewards.astype(np.float64), terminated, truncated, infos

    @property
    def faults(self) -> Faults:
        """Of all its environments."""
        return self._log.faults

    def _play(self, actions: Array) -> tuple[Array, Array, Bools, Bools]:
        """Step what goes on, and reset what is overdue."""
        if not np.count_nonzero(self._overdue):
            return self._step(actions, ALL)
        going, late = (np.flatnonzero(x).astype(np.int32) for x in (~self._overdue, self._overdue))
        obs, flags = self._blank(), np.zeros((2, self.num_envs))
        played = obs, np.zeros(self.num_envs), *flags.astype(np.bool_)
        obs[late] = self._show(late, self._pool.reset(late)[0])
        self._overdue[:] = False
        if len(going):
            for whole, part in zip(played, self._step(actions[going], going), strict=True):
                whole[going] = part
        return played

    def _step(self, actions: Array, which: Any) -> tuple[Array, Array, Bools, Bools]:
        """Step the environments ``which``; under next-step autoreset those that the limit ends are overdue."""
        numbers = () if which is ALL else (which,)
        try:
            raw, rewards, terminated, truncated, counts = self._pool.step(actions, *numbers)
        except Exception as error:  # whatever a game's C++ raises
            self._log.add("raised", f"the pool in its step: {type(error).__name__}: {first_line(error)}", error)
            raise self._log.error("EnvPool failed, and a pool cannot be restarted in part") from error
        # Most steps end nothing: looking first keeps small batches fast.
        if np.count_nonzero(truncated):
            if self._success_ends:
                terminated = terminated | (truncated & (rewards != 0))
            truncated = truncated & ~terminated
        if self._limit is not None and counts["elapsed_step"].max() >= self._limit:
            truncated = truncated | ((counts["elapsed_step"] >= self._limit) & ~terminated)
            if not self._same_step:
                self._overdue[which] = truncated
        return self._show(which, raw), rewards, terminated, truncated

    def _show(self, which: Any, raw: Any) -> Array:
        """What is shown of what the pool says of the environments ``which``."""
        self._seen.append(Seen(which, raw))
        return self._encode(raw)

    def _blank(self) -> Array:
        return np.zeros((self.num_envs, *self.observation_schema.shape), self.observation_schema.dtype)

    def _shown(self, seen: list[Seen]) -> Array:
        """The observations (N, *shape) that ``seen`` adds up to."""
        obs = self._blank()
        for which, shown, encoded in seen:
            obs[which] = shown if encoded else self._encode(shown)
        return obs

    def _note(self, failed: Bools) -> None:
        for i in np.flatnonzero(failed).tolist():
            self._log.add("not_finite", f"environment {i} in its step: the reward or an observation is not finite")
        self._log.check()
        if not self._same_step:
            self._overdue |= failed

    def close_extras(self, **kwargs: Any) -> None:
        """Let the pool go; its threads end with it."""
        self._pool = None


class EnvPoolAdapter:
    """MiniGrid and BabyAI, and every other EnvPool task whose observation is one box or number.

    `envs.adapters.envpool_tasks` says what is shown of them, and under which names.
    """

    prefix = PREFIX

    def ids(self) -> Iterable[str]:
        """Ids of the installed EnvPool; none where it is not installed."""
        try:
            return [PREFIX + name for name in _library().list_all_envs()]
        except GraftError:
            return []

    def make(self, task: Task, num_envs: int, seed: int, autoreset: AutoresetMode, max_threads: int) -> TaskVectorEnv:
        """The pool, with at most ``max_threads`` threads of its own."""
        library = _library()
        name = task.id.removeprefix(PREFIX)
        if name not in library.list_all_envs():
            raise unknown("task", task.id, self.ids())
        rules, rest = rules_of(task.id, task.kwargs, offered=("limit", "window"))
        task, mission = mission_of(Task(task.id, rest))
        spec = _spec(library, name, task)
        config = spec.config._asdict()
        played, limit = _with_limit(name, config, task)

        def build(seeds: list[int]) -> Any:
            threads = max(1, min(max_threads, num_envs))
            sizes = {"num_envs": num_envs, "num_threads": threads}
            pool = library.make(name, env_type="gymnasium", env_seed=seeds, **sizes, **played)
            _spaces(pool)  # a pool builds its spaces when first asked, and keeps them
            return pool

        codecs = codecs_of(task, name, config, *_spaces(spec), mission)
        log = FaultLog(task.id, rules)
        return EnvPoolVectorEnv(build, num_envs, seed, autoreset, codecs, is_grid(name), log, limit)

    def bounds(self, task: Task) -> Bounds | None:
        """See `envs.adapters.scores`."""
        return scores_of(task.id.removeprefix(PREFIX), task.kwargs)

    def states(self) -> dict[str, str]:
        """Part -> "ready", or a sentence with the line that installs it."""
        if find_spec("envpool") is None:
            missing = f"EnvPool is not installed; install it with `{INSTALL}`."
            return {"EnvPool": missing, "EnvPool's Procgen": missing}
        qt = "ready" if found_qt() else f"Qt 5 is not installed; install it with `{INSTALL_QT}`."
        return {"EnvPool": "ready", "EnvPool's Procgen": qt}

    def counts(self) -> dict[str, int]:
        """Part -> how many ids; imports EnvPool."""
        names = [task_id.removeprefix(PREFIX) for task_id in self.ids()]
        procgen = sum(is_procgen_name(name) for name in names)
        return {"EnvPool": len(names), "EnvPool's Procgen": procgen}


def _finite(values: Array) -> bool:
    """Whether all are. A sum of squares takes the least time to find that out, and may be too large in itself."""
    flat = values.ravel()
    return isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())


def _library() -> Any:
    """EnvPool, imported when the first of its tasks is asked for."""
    load_qt()
    try:
        import envpool
    except ImportError as error:
        raise GraftError(f"EnvPool is not installed; install it with `{INSTALL}`.") from error
    return envpool


def _spec(library: Any, name: str, task: Task) -> Any:
    """EnvPool's specification of one environment of ``task``; checks the task's keywords."""
    try:
        defaults = library.make_spec(name).config._asdict()
    except ImportError as error:
        hint = f"it needs Qt 5; install it with `{INSTALL_QT}`." if "Qt 5" in str(error) else str(error)
        raise GraftError(f"EnvPool cannot load '{task.id}': {hint}") from error
    allowed = sorted(defaults.keys() - _POOL_KEYWORDS)
    for keyword in task.kwargs:
        if keyword not in allowed:
            raise unknown(f"keyword of {task.id}", keyword, [*allowed, MISSION] if is_grid(name) else allowed)
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
