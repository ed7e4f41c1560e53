"""Mixtures: one batch that holds several tasks, for agents that learn many games at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from envs.errors import GraftError, unknown
from envs.factory import ADAPTERS, bounds, make, schemas
from envs.schema import ActionSchema, ObservationSchema
from envs.task import Bounds, Task, TaskVectorEnv
from envs.union import union

ID = "Graft/Mixture-v0"


def mixture(tasks: Sequence[Task | str], **options: Any) -> Task:
    """The task that is a mixture of ``tasks``; ``show_task=True`` adds an observation that says which one it is."""
    listed = [Task(task) if isinstance(task, str) else task for task in tasks]
    return Task(ID, {"tasks": [task.to_json() for task in listed], **options})


class MixtureVectorEnv(TaskVectorEnv):
    """Environment i plays task i modulo the number of tasks; observations are laid out as the union of all.

    ``infos["task"]`` (N,) of every reset and step holds the index of each environment's task. With ``show_task`` the
    observation has one more channel or feature for each task, ``task:<name>``, which is 1 throughout in that task.

    Raises:
        GraftError: observations without a union, or actions that differ.
    """

    def __init__(self, tasks: list[Task], num_envs: int, seed: int, autoreset: AutoresetMode, show: bool) -> None:
        self._parts: list[TaskVectorEnv] = []  # first of all: gymnasium closes what is thrown away, even half made
        self.action_schema = _same_actions(tasks)
        together = union([schemas(task).observation for task in tasks])
        self._tasks = np.arange(num_envs) % len(tasks)
        self._shown = _with_tasks(together, tasks) if show else together
        self.observation_schema = self._shown
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": autoreset, "render_modes": []}
        for k, task in enumerate(tasks[:num_envs]):
            count = int((self._tasks == k).sum())
            # Seeds of the parts overlap, which does no harm: they belong to different tasks.
            self._parts.append(make(task, count, seed + k, autoreset, observation=together))
        self._width = together.shape[0]
        self.single_observation_space = self._shown.space()
        self.single_action_space = self.action_schema.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _gather(self, pieces: Sequence[Any]) -> Any:
        """Rows of the parts in the order of the batch."""
        whole = np.empty((self.num_envs, *np.shape(pieces[0])[1:]), np.asarray(pieces[0]).dtype)
        for k, piece in enumerate(pieces):
            whole[self._tasks == k] = piece
        return whole

    def _show(self, pieces: Sequence[Any]) -> Any:
        obs = self._gather(pieces)
        if self._shown.shape == obs.shape[1:]:
            return obs
        wide = np.zeros((self.num_envs, *self._shown.shape), obs.dtype)
        wide[:, : self._width] = obs
        wide[np.arange(self.num_envs), self._width + self._tasks] = 1
        return wide

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observations of fresh episodes."""
        if options:
            raise GraftError(f"A mixture takes no reset options; got {', '.join(options)}.")
        seeds = [None if seed is None else int(seed) + k for k in range(len(self._parts))]
        found = [part.reset(seed=own)[0] for part, own in zip(self._parts, seeds, strict=True)]
        return self._show(found), {"task": self._tasks.copy()}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every part."""
        chosen = np.asarray(actions)
        steps = [part.step(chosen[self._tasks == k]) for k, part in enumerate(self._parts)]
        obs = self._show([step[0] for step in steps])
        rewards, terminated, truncated = (self._gather([step[n] for step in steps]) for n in (1, 2, 3))
        infos: dict[str, Any] = {"task": self._tasks.copy()}
        if any("final_obs" in step[4] for step in steps):
            counts = [part.num_envs for part in self._parts]
            last = [step[4].get("final_obs", np.zeros_like(step[0])) for step in steps]
            valid = [step[4].get("_final_obs", np.zeros(n, np.bool_)) for step, n in zip(steps, counts, strict=True)]
            infos |= {"final_obs": self._show(last), "_final_obs": self._gather(valid)}
        return obs, rewards, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close every part."""
        for part in self._parts:
            part.close(**kwargs)


def _same_actions(tasks: list[Task]) -> ActionSchema:
    first = schemas(tasks[0]).action
    for task in tasks[1:]:
        other = schemas(task).action
        if other != first:
            raise GraftError(
                f"These tasks have no mixture: {tasks[0]} takes {first.kind} actions ({', '.join(first.names)}), "
                f"{task} {other.kind} ones ({', '.join(other.names)})."
            )
    return first


def _with_tasks(schema: ObservationSchema, tasks: list[Task]) -> ObservationSchema:
    """``schema`` with a channel or feature for each task."""
    if schema.kind == "pixels":
        raise GraftError("show_task=true is not allowed with pixels; use planes, features or ego.")
    names = tuple(f"task:{task}" for task in tasks)
    count = len(names)
    return replace(
        schema,
        names=schema.names + names,
        attributes=schema.attributes + (("task",),) * count,
        shape=(schema.shape[0] + count, *schema.shape[1:]),
        low=schema.low + (0.0,) * count,
        high=schema.high + (1.0,) * count,
    )


class MixtureAdapter:
    """``Graft/Mixture-v0`` with ``tasks: [id or {id, kwargs}, ...]`` and ``show_task``."""

    prefix = ID

    def ids(self) -> Iterable[str]:
        """Its one id."""
        return [ID]

    def make(self, task: Task, num_envs: int, seed: int, autoreset: AutoresetMode, max_threads: int) -> TaskVectorEnv:
        """The batch of all its tasks."""
        if task.id != ID:
            raise unknown("task", task.id, [ID])
        for name in task.kwargs:
            if name not in ("tasks", "show_task"):
                raise unknown("keyword of a mixture", name, ["tasks", "show_task"])
        show = task.kwargs.get("show_task", False)
        if not isinstance(show, bool):
            raise GraftError(f"{ID}: show_task={show!r} is not allowed; it is true or false.")
        return MixtureVectorEnv(parts(task), num_envs, seed, autoreset, show)

    def bounds(self, task: Task) -> Bounds | None:
        """The mean of its tasks' bounds, where all have some."""
        found = [bounds(part) for part in parts(task)]
        if any(b is None for b in found):
            return None
        known = [b for b in found if b is not None]
        return Bounds(
            float(np.mean([b.random for b in known])),
            float(np.mean([b.expert for b in known])),
            "mean of the bounds of its tasks",
        )


def parts(task: Task) -> list[Task]:
    """The tasks of a mixture.

    Raises:
        GraftError: no list of two tasks or more, or one is listed twice.
    """
    given: Any = task.kwargs.get("tasks")
    whole = isinstance(given, list | tuple) and len(given) >= 2
    if not whole or not all(
        isinstance(entry, str | dict) and (isinstance(entry, str) or "id" in entry) for entry in given
    ):
        raise GraftError(f"{ID}: tasks={given!r} is not allowed; list two tasks or more, by id or as {{id, kwargs}}.")
    found = [Task(entry) if isinstance(entry, str) else Task.from_json(entry) for entry in given]
    for entry in found:
        if found.count(entry) > 1:
            raise GraftError(f"{ID}: {entry} is listed twice; give every task once.")
    return found


ADAPTERS.add("mixture", MixtureAdapter())
