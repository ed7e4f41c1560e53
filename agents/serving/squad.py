"""Decisions of one policy for many NPCs, frame by frame."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graft.agents.parity import Array
from graft.agents.serving.model import Agent, Model
from graft.agents.serving.times import Times
from graft.errors import GraftError

CHUNK = 64  # NPCs between two looks at the clock, where there is a budget


class Squad:
    """``n`` NPCs that one policy decides, in one forward pass a frame; not the teams that train (docs/squads.md).

    Of each NPC its last action is kept, and nothing else: Graft's networks have no memory.

    Args:
        agent: a checkpoint, its folder, or an ONNX file that ``graft export --to onnx`` wrote.
        n: NPCs.
        frames: each NPC is decided in every ``frames``-th frame, a share of them in each, and keeps its last action in
            between. The first frame decides all.
        budget_ms: milliseconds after which a frame ends; who was not decided in it comes first in the next one. At
            least `CHUNK` NPCs are decided. None is no limit. The first frame has none.
        sampled: whether actions are drawn from the policy; by default they are the most likely ones.
        seed: of drawn actions.
    Raises:
        GraftError: bad numbers, an agent that is missing or altered, or missing packages (``graft-rl[export]``).
    """

    def __init__(
        self,
        agent: Agent,
        n: int = 1000,
        frames: int = 1,
        budget_ms: float | None = None,
        sampled: bool = False,
        seed: int = 0,
    ) -> None:
        if n < 1 or not 1 <= frames <= n:
            raise GraftError(f"n={n} and frames={frames} are not allowed; at least 1 NPC and 1 to n frames are needed.")
        if budget_ms is not None and not budget_ms > 0:
            raise GraftError(f"budget_ms={budget_ms} is not allowed; more than 0 is needed, or None for no limit.")
        self.n, self.frames, self.budget_ms = n, frames, budget_ms
        self._model, self._rng = Model.of(agent), np.random.default_rng(seed) if sampled else None
        self._ends: list[int] = np.linspace(0, n, frames + 1).astype(int).tolist()  # of the frames' shares
        self._first, self._late = 0, n  # who is next, and how many are overdue
        self._actions: Array | None = None
        self._frame = self._decided = self._over = 0
        self._times = Times()

    @property
    def due(self) -> NDArray[np.int64]:
        """The NPCs whose observations the next frame reads, those that are decided first in front."""
        return (self._first + np.arange(self._count())) % self.n

    def _count(self) -> int:
        share = self._frame % self.frames
        return min(self.n, self._late + self._ends[share + 1] - self._ends[share])

    def decide(self, obs: ArrayLike, masks: ArrayLike | None = None) -> Array:
        """The actions of all NPCs in this frame: (n,) indices, (n, M) of M choices, or (n, A) reals in bounds.

        Args:
            obs: raw, (n, *obs_shape), as the task gives them; only the rows `due` are read.
            masks: (n, A), 1 where an action is allowed; of agents that were trained with masks, and only where ``obs``
                lack the flags. An action that is kept from an earlier frame may be forbidden by now.
        Raises:
            GraftError: other shapes, masks for an agent without, or outputs that are not finite.
        """
        start = time.perf_counter()
        seen, allowed = self._checked(np.asarray(obs), None if masks is None else np.asarray(masks))
        model, limited = self._model, self.budget_ms is not None and self._decided >= self.n
        self._late, self._frame = self._count(), self._frame + 1
        while self._late:
            began = time.perf_counter()
            rows = slice(self._first, min(self._first + (min(self._late, CHUNK) if limited else self._late), self.n))
            self._take(model, rows, seen[rows], None if allowed is None else allowed[rows])
            self._late -= rows.stop - rows.start
            self._first = rows.stop % self.n
            now = time.perf_counter()
            if limited and self.budget_ms is not None and 1000 * (2 * now - start - began) > self.budget_ms:
                break  # another as long as this one would be too long
        assert self._actions is not None  # the first frame decides all
        actions = self._actions.copy()
        spent = time.perf_counter() - start
        self._over += self.budget_ms is not None and 1000 * spent > self.budget_ms
        self._times.add(spent)
        return actions

    def _take(self, model: Model, rows: slice, obs: Array, masks: Array | None) -> None:
        decided = model.decide(model.inputs(obs, masks), self._rng)
        if not decided.finite.all():
            row = rows.start + int(np.argmin(decided.finite))
            raise GraftError(f"The policy's outputs for NPC {row} are not finite; look at its observation.")
        if self._actions is None:
            self._actions = np.zeros((self.n, *decided.actions.shape[1:]), decided.actions.dtype)
        self._actions[rows] = decided.actions
        self._decided += len(decided.actions)

    def _checked(self, obs: Array, masks: Array | None) -> tuple[Array, Array | None]:
        schema, actions = self._model.schemas
        if masks is not None and not schema.flags:
            raise GraftError("This agent was trained without action masks, so that it takes none; leave masks out.")
        shape = (self.n, *(schema.plain if masks is not None and obs.shape[1:] != schema.shape else schema).shape)
        if obs.shape != shape:
            raise GraftError(f"Observations of shape {obs.shape} are not allowed; this squad reads {shape}.")
        if masks is not None and masks.shape != (self.n, len(actions.names)):
            raise GraftError(f"Masks of shape {masks.shape} are not allowed; {(self.n, len(actions.names))} is needed.")
        return obs, masks

    def swap(self, agent: Agent) -> None:
        """Let another model decide from the next frame on; may be called from another thread, as loading takes time.

        Raises:
            GraftError: a model of another contract (observations, actions); the old one goes on.
        """
        self._model = self._model.successor(agent)

    def stats(self) -> dict[str, Any]:
        """Of all frames: how many, NPCs decided, frames over the budget; NPCs that are late now; the model's hash;
        median and 99th percentile of the milliseconds of the latest 4,096 frames.
        """
        counts = {"frames": self._frame, "decided": self._decided, "over_budget": self._over, "late": self._late}
        return {**counts, **self._times.summary(), "model": self._model.version}
