"""Mixtures: one batch that holds several tasks, for agents that learn many games at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.core.faults import Faults, sum_faults
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.envs.core.task import AVERAGED, Adapter, BatchOptions, Bounds, Groups, Task, TaskVectorEnv
from graft.envs.core.union import union
from graft.envs.factory import ADAPTERS, bounds, make, modules, part_modules, schemas
from graft.errors import GraftError, unknown

ID = "Graft/Mixture-v0"


def mixture(tasks: Sequence[Task | str], **options: Any) -> Task:
    """The task that is a mixture of ``tasks``; ``show_task=True`` adds an observation that says which one it is."""
    listed = [Task(task) if isinstance(task, str) else task for task in tasks]
    return Task(ID, {"tasks": [task.to_json() for task in listed], **options})


class MixtureVectorEnv(TaskVectorEnv):
    """Environment i plays task i modulo the number of tasks; the observation schema is the union of all.

    ``infos["task"]`` (N,) of every reset and step holds the index of each environment's task. With ``show_task`` the
    observation has one more channel or feature for each task, ``task:<name>``, which is 1 throughout in that task.
    A batch of one has the schemas, but cannot play.

    Raises:
        GraftError: observations without a union, actions that differ, or more tasks than environments.
    """

    def __init__(self, tasks: list[Task], options: BatchOptions, show: bool = False) -> None:
        self._parts: list[TaskVectorEnv] = []  # first of all: gymnasium closes what is thrown away, even half made
        actions, together, num_envs = _same_actions(tasks), _together(tasks), options.num_envs
        self.num_envs = num_envs
        self._tasks = np.arange(num_envs) % len(tasks)
        self._names = tuple(map(str, tasks))
        self.groups = Groups(self._names, self._tasks, tuple(map(bounds, tasks)))
        if num_envs > 1:
            self._hold_all()
        self.metadata = {"autoreset_mode": options.autoreset, "render_modes": []}
        for k, task in enumerate(tasks[:num_envs]):
            # Seeds of the parts overlap, which does no harm: they belong to different tasks.
            count, seed = int((self._tasks == k).sum()), options.seed + k
            self._parts.append(make(task, count, seed, options.autoreset, options.max_threads, observation=together))
            if (found := self._parts[-1].num_envs) != count:
                raise GraftError(f"Task '{task}' gives {found} environments, and this mixture asks it for {count}.")
        self.dead_rows = any(part.dead_rows for part in self._parts)
        self._width = together.shape[0]
        self._set_schemas(num_envs, _with_tasks(together, tasks) if show else together, actions)

    def _hold_all(self) -> None:
        if self.num_envs < (count := len(self._names)):
            raise GraftError(
                f"A mixture of {count} tasks needs {count} environments or more, to hold all of them "
                f"({', '.join(self._names)}); this batch has {self.num_envs}."
            )

    def _gather(self, pieces: Sequence[Any]) -> Any:
        whole = np.empty((self.num_envs, *np.shape(pieces[0])[1:]), np.asarray(pieces[0]).dtype)
        for k, piece in enumerate(pieces):
            whole[self._tasks == k] = piece
        return whole

    def _show(self, pieces: Sequence[Any]) -> Any:
        obs, shape = self._gather(pieces), self.observation_schema.shape
        if shape == obs.shape[1:]:
            return obs
        wide = np.zeros((self.num_envs, *shape), obs.dtype)
        wide[:, : self._width] = obs
        wide[np.arange(self.num_envs), self._width + self._tasks] = 1
        return wide

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Fresh episodes; ``seed`` is a number, from which each part's seeds follow, or one for each environment."""
        self._hold_all()
        chosen = self._options(options or {})
        seeds = self._seeds(seed)
        found = [part.reset(seed=s, options=o) for part, s, o in zip(self._parts, seeds, chosen, strict=True)]
        return self._show([obs for obs, _ in found]), self._infos([infos for _, infos in found])

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Which task each environment plays, and which rows are in play where a part has dead rows."""
        found: dict[str, Any] = {"task": self._tasks.copy()}
        if any("alive" in own for own in infos):
            everyone = [np.ones(part.num_envs, np.bool_) for part in self._parts]
            found["alive"] = self._gather([own.get("alive", all_) for own, all_ in zip(infos, everyone, strict=True)])
        return found

    def _options(self, options: dict[str, Any]) -> list[dict[str, Any] | None]:
        for name in options:
            if name != "reset_mask":
                raise unknown("reset option of a mixture", name, ["reset_mask"])
        if options.get("reset_mask") is None:
            return [None] * len(self._parts)
        mask = np.asarray(options["reset_mask"], np.bool_)
        if mask.shape != (self.num_envs,):
            raise GraftError(f"reset_mask has shape {mask.shape}; give one flag for each of {self.num_envs} games.")
        return [{"reset_mask": mask[self._tasks == k]} for k in range(len(self._parts))]

    def _seeds(self, seed: Any) -> list[Any]:
        if seed is None or isinstance(seed, int | np.integer):
            return [None if seed is None else int(seed) + k for k in range(len(self._parts))]
        if len(seed) != self.num_envs:
            raise GraftError(f"Seeds {list(seed)} are not allowed; give one for each of {self.num_envs} games.")
        return [[seed[i] for i in np.flatnonzero(self._tasks == k)] for k in range(len(self._parts))]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        chosen = np.asarray(actions)
        given = self.action_schema
        steps = [
            part.step(_stretched(chosen[self._tasks == k], given, part.action_schema))
            for k, part in enumerate(self._parts)
        ]
        obs = self._show([step[0] for step in steps])
        rewards, terminated, truncated = (self._gather([step[n] for step in steps]) for n in (1, 2, 3))
        infos = self._infos([step[4] for step in steps])
        if "alive" in infos:
            infos["over"] = self._gather([step[4].get("over", step[2] | step[3]) for step in steps])
        if any("final_obs" in step[4] for step in steps):
            last = [step[4].get("final_obs", np.zeros_like(step[0])) for step in steps]
            valid = [step[4].get("_final_obs", np.zeros_like(step[2])) for step in steps]
            infos |= {"final_obs": self._show(last), "_final_obs": self._gather(valid)}
        return obs, rewards, terminated, truncated, infos

    @property
    def savable(self) -> bool:
        return all(part.savable for part in self._parts)

    def save_state(self) -> dict[str, NDArray[Any]]:
        return {f"{k}.{name}": a for k, part in enumerate(self._parts) for name, a in part.save_state().items()}

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        for k, part in enumerate(self._parts):
            start = f"{k}."
            part.restore_state({name.removeprefix(start): a for name, a in saved.items() if name.startswith(start)})

    @property
    def faults(self) -> Faults:
        return sum_faults(part.faults for part in self._parts)

    def close_extras(self, **kwargs: Any) -> None:
        for part in self._parts:
            part.close(**kwargs)


def _same_actions(tasks: list[Task]) -> ActionSchema:
    """What all tasks take; of a box, actions whose bounds differ are from -1 to 1, which each task has stretched.

    Raises GraftError where they differ otherwise.
    """
    found = [schemas(task).action for task in tasks]
    first = found[0]
    for task, other in zip(tasks, found, strict=True):
        alike = (first.kind, first.names) == (other.kind, other.names)
        stretched = alike and first.kind == "box" and _finite(first, _differing([first, other]))
        if other != first and not (stretched and _finite(other, _differing([first, other]))):
            raise GraftError(
                f"These tasks have no mixture: {tasks[0]} takes {_taken(first, alike)}, "
                f"{task} {_taken(other, alike)}; their actions must be the same."
            )
    if first.kind != "box":
        return first
    differing = _differing(found)
    low, high = (np.where(differing, end, ends) for end, ends in ((-1.0, first.low), (1.0, first.high)))
    return replace(first, low=tuple(low.tolist()), high=tuple(high.tolist()))


def _differing(boxes: Sequence[ActionSchema]) -> NDArray[np.bool_]:
    """Which actions have other bounds in some of these boxes, (A,)."""
    ends = np.array([(box.low, box.high) for box in boxes])
    differing: NDArray[np.bool_] = (ends != ends[0]).any((0, 1))
    return differing


def _finite(box: ActionSchema, which: NDArray[np.bool_]) -> bool:
    return bool(np.isfinite([box.low, box.high])[:, which].all())


def _stretched(actions: NDArray[Any], given: ActionSchema, taken: ActionSchema) -> NDArray[Any]:
    """Actions (N, A) of ``given`` as a task takes them."""
    if given == taken:
        return actions
    which, found = _differing([given, taken]), actions.astype(np.float32)
    low, high = (np.array(ends, np.float32)[which] for ends in (taken.low, taken.high))
    found[:, which] = np.clip(low + 0.5 * (found[:, which] + 1) * (high - low), low, high)
    return found


def _taken(actions: ActionSchema, bounded: bool) -> str:
    limits = f" from {list(actions.low)} to {list(actions.high)}" if bounded else ""
    return f"{actions.kind} actions ({', '.join(actions.names)}){limits}"


def _together(tasks: list[Task]) -> ObservationSchema:
    """The union of what the tasks show; where there is none, the error names the first task that differs."""
    shown = [schemas(task).observation for task in tasks]
    for task, other in zip(tasks, shown, strict=True):
        try:
            union([shown[0], other])
        except GraftError as error:
            raise GraftError(f"{tasks[0]} and {task} have no mixture. {error}") from error
    return union(shown)


def _with_tasks(schema: ObservationSchema, tasks: list[Task]) -> ObservationSchema:
    if schema.kind in ("pixels", "parts", "masked"):
        raise GraftError(f"show_task=true is not allowed with {schema.kind}; it takes planes, features or ego.")
    return schema.extended(tuple(f"task:{task}" for task in tasks), "task")


class MixtureAdapter(Adapter):
    """``Graft/Mixture-v0`` with ``tasks: [id or {id, kwargs}, ...]`` and ``show_task``."""

    prefix = ID
    own_planes = True  # those of its tasks

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        if task.id != ID:
            raise unknown("task", task.id, [ID])
        for name in task.kwargs:
            if name not in ("tasks", "show_task"):
                raise unknown("keyword of a mixture", name, ["tasks", "show_task"])
        show = task.kwargs.get("show_task", False)
        if not isinstance(show, bool):
            raise GraftError(f"{ID}: show_task={show!r} is not allowed; it is true or false.")
        return MixtureVectorEnv(parts(task), options, show)

    def modules(self, task: Task) -> tuple[str, ...]:
        return tuple(name for part in parts(task) for name in modules(part))

    def part_modules(self, task: Task) -> tuple[str, ...]:
        return tuple(name for part in parts(task) for name in part_modules(part))

    def bounds(self, task: Task) -> Bounds | None:
        found = [bounds(part) for part in parts(task)]
        known = [b for b in found if b is not None]
        if len(known) < len(found):
            return None
        random, expert = (float(np.mean([b[end] for b in known])) for end in (0, 1))
        return Bounds(random, expert, AVERAGED)


def parts(task: Task) -> list[Task]:
    """The tasks of a mixture. Raises GraftError: no list of two tasks or more, or one is listed twice."""
    given: Any = task.kwargs.get("tasks")
    whole = isinstance(given, list | tuple) and len(given) >= 2
    if not whole or not all(isinstance(entry, str) or _is_task(entry) for entry in given):
        raise GraftError(f"{ID}: tasks={given!r} is not allowed; list two tasks or more, by id or as {{id, kwargs}}.")
    found = [Task(entry) if isinstance(entry, str) else Task.from_json(entry) for entry in given]
    for key in (key for entry in given if isinstance(entry, dict) for key in entry):
        if key not in ("id", "kwargs"):
            raise unknown("key of a task in a mixture", key, ["id", "kwargs"])
    for entry in found:
        if found.count(entry) > 1:
            raise GraftError(f"{ID}: {entry} is listed twice; give every task once.")
    return found


def _is_task(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str) and isinstance(entry.get("kwargs", {}), dict)


ADAPTERS.add("mixture", MixtureAdapter())
