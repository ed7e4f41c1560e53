"""Requests of several clients, decided in one forward pass."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graft.agents.export.ports import Arrays
from graft.agents.serving.model import Decided, Model
from graft.errors import GraftError

ROWS = 4096
"""Most NPCs of a request; a pass takes further requests until it has as many."""


class Refused(GraftError):
    """A request that is not answered; ``status`` is HTTP's."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


ENDED = 503, "The server has stopped deciding; it has to be started again."


class _Waiting(NamedTuple):
    inputs: Arrays
    rows: int
    answer: asyncio.Future[tuple[Decided, str]]


def _fail(batch: list[_Waiting], status: int, sentence: str) -> None:
    """Refuse those of ``batch`` that have no answer yet, and whose clients are there."""
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(Refused(status, sentence))


class Batcher:
    """Decides requests in the order in which they come. While one pass runs, the requests of the next one gather.

    Args:
        agent: a checkpoint's folder or an ONNX file, read again by `swap`.
        limit: requests that may wait; others are refused.
        rng: draws the actions; None plays the most likely ones.
    """

    def __init__(self, agent: Path, limit: int, rng: np.random.Generator | None = None) -> None:
        self._agent, self._rng, self._limit = agent, rng, limit
        self.model = Model.of(agent)
        if rng is not None:
            self.model.check_drawn()
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(limit)
        self._thread, self._swapping = ThreadPoolExecutor(1), asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._requests = self._rows = self._passes = self._refused = self._swaps = 0

    @property
    def sampling(self) -> str | None:
        """How actions are drawn, as an export's contract says it; None where the most likely ones are played."""
        return None if self._rng is None else self.model.sampling

    @property
    def alive(self) -> bool:
        """Whether requests are decided; not before `running`, and never again where its task has ended by an error."""
        return self._task is not None and not self._task.done()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Decide until the end of the block."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        try:
            yield
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._thread.shutdown()

    def _ended(self, _: asyncio.Task[None]) -> None:
        while not self._queue.empty():
            _fail([self._queue.get_nowait()], *ENDED)

    async def decide(self, inputs: Arrays) -> tuple[list[Any], str]:
        """Actions of one request, and the hash of the model that decided; raises Refused."""
        if not self.alive:
            raise Refused(*ENDED)
        rows = len(next(iter(inputs.values())))
        waiting = _Waiting(inputs, rows, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Refused(503, f"{self._limit} requests wait already, and no more are taken; try again.") from None
        decided, version = await waiting.answer
        if not decided.finite.all():
            row = int(np.argmin(decided.finite))
            raise Refused(422, f"The policy's outputs in row {row} are not finite; its observation is too large.")
        self._requests, self._rows = self._requests + 1, self._rows + rows
        return decided.actions.tolist(), version

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            try:
                while sum(one.rows for one in batch) < ROWS and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                try:
                    await self._pass(batch)
                except Exception as error:
                    await self._alone(batch, error)
            finally:
                _fail(batch, *ENDED)  # those without an answer, where the task ends

    async def _alone(self, batch: list[_Waiting], error: Exception) -> None:
        """After a pass that failed: each request by itself, so that one client's fails no other's."""
        for one in batch:
            try:
                if len(batch) == 1:
                    raise error
                await self._pass([one])
            except Exception as own:  # onnxruntime's, numpy's, out of memory; the server goes on
                _fail([one], 500, f"The model failed ({type(own).__name__}).")

    async def _pass(self, batch: list[_Waiting]) -> None:
        model = self.model
        inputs = {name: np.concatenate([one.inputs[name] for one in batch]) for name in batch[0].inputs}
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, model.decide, inputs, self._rng)
        self._passes += 1
        start = 0
        for one in batch:
            part = Decided(*(values[start : start + one.rows] for values in found))
            start += one.rows
            if not one.answer.done():  # its client has left
                one.answer.set_result((part, model.version))

    async def swap(self) -> str:
        """Read the agent again, while the old model goes on deciding; returns the new one's hash.

        Raises:
            GraftError: a model of another contract, or none; the old one goes on.
        """
        if self._swapping.locked():
            raise Refused(409, "A model is being loaded already; wait for its answer.")
        async with self._swapping:
            try:
                new = await asyncio.to_thread(Model.of, self._agent)
            except GraftError as error:  # which names the server's folders
                print(f"graft: POST /swap failed. {error}", file=sys.stderr, flush=True)
                raise Refused(
                    500, "The model could not be read, and the old one goes on; the server said why."
                ) from None
            self.model.check_successor(new)
            self.model = new
            self._swaps += 1
            return self.model.version

    def refused(self) -> None:
        """Count a request that was answered by an error."""
        self._refused += 1

    def stats(self) -> dict[str, Any]:
        """Counts since the start."""
        counts = {"requests": self._requests, "npcs": self._rows, "passes": self._passes, "refused": self._refused}
        queue = {"queue": self._queue.qsize(), "queue_limit": self._limit, "swaps": self._swaps}
        return {"model": self.model.version, **counts, **queue}
