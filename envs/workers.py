"""A batch spread over processes, for environments whose step takes long in Python: Gymnasium's, MuJoCo's robots.

What comes out is exactly that of the same batch in one process: environment i is seeded with ``seed + i`` in both.
Each process has a slice of the batch; observations, rewards and actions lie in memory that all share, and a pipe says
when to step.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.errors import GraftError
from envs.faults import FaultLog, FaultRules, Faults, TooManyFaults
from envs.processes import ignoring_ctrl_c, one_thread_each
from envs.schema import Schemas
from envs.slices import SECONDS_TO_CLOSE, Elsewhere, Job, Memory, News, Told, Worker, raised, registration
from envs.task import Task, TaskVectorEnv

Array = NDArray[Any]
Bools = NDArray[np.bool_]


class Workers(TaskVectorEnv):
    """A batch whose environments are in ``workers`` processes, each with a slice of it.

    Agreeing on a step costs two workers about 0.5 ms, so that this pays where a step of the whole batch takes more than
    2 ms in one process, and a core is free for each worker. Steps/s as multiples of those of one process, on two cores
    that had other work as well: CartPole (16 environments, 0.1 ms) 0.3, HalfCheetah (16, 0.7 ms) 0.6, HalfCheetah (64,
    3 ms) 0.8, environments that wait for something else (16, 80 ms) 1.7. A worker takes a second to start, and 100 MB.

    Faults count as in one process: parts report theirs, and the rules (`envs.faults`) hold for the sum of all. A part
    ends the run by itself only where its own faults are too many for its share of the window, such as in a reset that
    fails for ever.

    Public attributes of the parts, such as ``mechanics``, are those of the first one when it was made.

    Args:
        task, num_envs, seed, autoreset, max_threads: as for `envs.make`.
        workers: from 2 to ``num_envs``.
        schemas: of the task.
    Raises:
        GraftError: this process may not start others, or the environments can't be made in one.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int,
        autoreset: AutoresetMode,
        max_threads: int,
        workers: int,
        schemas: Schemas,
    ) -> None:
        self._workers: list[Worker] = []  # first of all: gymnasium closes what is thrown away, even half made
        self.num_envs, self._log = num_envs, FaultLog(task.id, FaultRules())
        if multiprocessing.current_process().daemon:
            raise GraftError(
                f"workers={workers} is not allowed in a daemonic process, which may start none; allowed: 1."
            )
        self.observation_schema, self.action_schema = schemas
        self.single_observation_space = self.observation_schema.space()
        self.single_action_space = self.action_schema.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        context = multiprocessing.get_context("spawn")  # threads, such as torch's, do not survive a fork
        memory = self._memory(context)
        self._arrays = memory.arrays()
        ends = [num_envs * k // workers for k in range(workers + 1)]
        registered = registration(task)
        try:
            with one_thread_each(), ignoring_ctrl_c():
                for first, end in pairwise(ends):
                    job = Job(task, registered, first, end - first, num_envs, seed, autoreset, max_threads)
                    self._workers.append(Worker(context, memory, job))
            self._take_over(self._answers()[0])
        except BaseException:
            self.close()
            raise
        self._faults = [Faults() for _ in self._workers]
        self._same_step = autoreset is AutoresetMode.SAME_STEP
        self._waiting = np.zeros(num_envs, np.bool_)
        self._infos: dict[str, Array] = {}
        self._own: list[dict[str, Any]] = [{} for _ in self._workers]
        self._pieces: dict[str, list[Any]] = {}

    def _memory(self, context: Any) -> Memory:
        # Actions in the widest type, which a caller's own may be: they are cast where they are taken.
        kind = np.dtype(self.single_action_space.dtype).kind
        assert self.action_space.shape is not None
        rows = (self.num_envs,)
        shown = (self.num_envs, *self.observation_schema.shape), self.observation_schema.dtype
        return Memory(
            context,
            {
                "obs": shown,
                "final_obs": shown,
                "rewards": (rows, np.float64),
                "terminated": (rows, np.bool_),
                "truncated": (rows, np.bool_),
                "actions": (self.action_space.shape, np.float64 if kind == "f" else np.int64),
            },
        )

    def _take_over(self, known: tuple[dict[str, Any], FaultRules]) -> None:
        attributes, rules = known
        vars(self).update(attributes)
        self._log = FaultLog(self._workers[0].job.task.id, rules)

    @property
    def faults(self) -> Faults:
        """Of all its environments."""
        return self._log.faults

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Fresh episodes; ``options={"reset_mask": (N,) bool}`` resets only those environments."""
        given = dict(options or {})
        mask = given.pop("reset_mask", None)
        chosen = np.ones(self.num_envs, np.bool_) if mask is None else np.array(mask, np.bool_)
        if not (seed is None or isinstance(seed, int | np.integer)) and len(seed) != self.num_envs:
            raise GraftError(f"{len(seed)} seeds were given for {self.num_envs} environments; give one for each.")
        for worker in self._workers:
            rows, first = worker.rows, worker.job.first
            if seed is None or isinstance(seed, int | np.integer):
                seeds: Any = None if seed is None else int(seed) + first
            else:
                seeds = list(seed)[rows]
            worker.ask("reset", seeds, {**given, "reset_mask": chosen[rows]})
        infos = self._merged(self._answers())
        self._waiting &= ~chosen
        return self._arrays["obs"].copy(), infos

    def step(self, actions: Any) -> tuple[Array, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """One step of all environments; the arrays returned are the caller's to keep."""
        shared = self._arrays
        shared["actions"][...] = np.asarray(actions).reshape(shared["actions"].shape)
        for worker in self._workers:
            worker.ask("step")
        infos = self._merged(self._answers(self.num_envs - int(self._waiting.sum())))
        obs, rewards, terminated, truncated = (
            shared[name].copy() for name in ("obs", "rewards", "terminated", "truncated")
        )
        if not self._same_step:
            self._waiting = terminated | truncated
        if "_final_obs" in infos:
            infos["final_obs"] = final = obs.copy()
            for worker in self._workers:
                if infos["_final_obs"][worker.rows].any():
                    final[worker.rows] = shared["final_obs"][worker.rows]
        return obs, rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...]:
        """What each environment renders."""
        for worker in self._workers:
            worker.ask("render")
        return tuple(frame for frames in self._answers() for frame in frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment, as far as they let themselves be closed, and end the processes."""
        for worker in self._workers:
            worker.ask("close")
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        for worker in self._workers:
            worker.end(deadline)
        self._workers = []

    def _answers(self, env_steps: int = 0) -> list[Any]:
        """What all processes say to what they were asked; ``env_steps`` were taken.

        Raises:
            GraftError: a process died, or raised it. TooManyFaults: of all parts together. Whatever else one raised.
        """
        if not self._workers:
            raise GraftError(f"This batch of {self.num_envs} environments is closed.")
        told = [worker.answer() for worker in self._workers]  # of all, before an error of one of them is raised
        self._log.passed(env_steps)
        for k, answer in enumerate(told):
            self._count(k, answer)
        error = next((answer.error for answer in told if answer.error is not None), None)
        if error is not None:
            failure, trace = raised(*error)
            if isinstance(failure, TooManyFaults):
                self._log.check()
                failure.faults = self.faults
            raise failure from (Elsewhere(trace) if trace else None)
        if any(answer.faults is not None for answer in told):
            self._log.check()
        return [answer.value for answer in told]

    def _count(self, k: int, told: Told) -> None:
        """Count the new faults of part ``k``."""
        if told.faults is None:
            return
        error = Elsewhere(told.trace) if told.trace else None
        for kind, count in told.faults.items():
            for _ in range(count - self._faults[k][kind]):
                self._log.add(kind, told.faults.last, error)
        self._faults[k] = told.faults

    def _merged(self, told: Sequence[News]) -> dict[str, Any]:
        """Infos of the batch from those of its parts, which don't repeat what is as it was."""
        if not any(told):  # all is as it was
            return dict(self._infos)
        for k, news in enumerate(told):
            if news is not None:
                self._own[k] = {name: news[1].get(name, self._own[k].get(name)) for name in news[0]}
        pieces = {name: [own.get(name) for own in self._own] for own in self._own for name in own}
        before, self._infos = self._infos, {}
        for name, parts in pieces.items():
            if all(a is b for a, b in zip(parts, self._pieces.get(name, [None] * len(parts)), strict=True)):
                self._infos[name] = before[name]
            else:
                # What a part that has no end does not say of ends is what it said a step ago.
                old = before.get(name.removeprefix("final_")) if name.startswith("final_") else None
                self._infos[name] = self._joined(parts, old)
        self._pieces = pieces
        return dict(self._infos)

    def _joined(self, parts: Sequence[Any], otherwise: Array | None) -> Array:
        """``parts`` one after the other; where there is None, the rows of ``otherwise``, or zeros."""
        given = [np.asarray(part) for part in parts if part is not None]
        whole = np.zeros((self.num_envs, *given[0].shape[1:]), np.result_type(*given))
        for worker, part in zip(self._workers, parts, strict=True):
            if part is not None:
                whole[worker.rows] = part
            elif otherwise is not None and otherwise.shape == whole.shape:
                whole[worker.rows] = otherwise[worker.rows]
        whole.flags.writeable = False  # handed out until the next change
        return whole
