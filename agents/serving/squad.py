"""Decisions of one policy for many NPCs, frame by frame."""

from __future__ import annotations

import time
import warnings
from operator import index
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

    An NPC whose decision fails keeps its last action, and the others are decided: its observation has numbers that are
    not finite or that the input's dtype does not hold, its mask allows nothing, or the outputs are not finite. `stats`
    names such NPCs, and a warning comes when there are new ones. One that has no action yet plays the index 0, or
    of reals 0 within the bounds.

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
        try:
            n, frames, seed = index(n), index(frames), index(seed)
        except TypeError:
            raise GraftError(f"n={n}, frames={frames} and seed={seed} have to be whole numbers.") from None
        if seed < 0:
            raise GraftError(f"seed={seed} is not allowed; at least 0 is needed.")
        if n < 1 or not 1 <= frames <= n:
            raise GraftError(f"n={n} and frames={frames} are not allowed; at least 1 NPC and 1 to n frames are needed.")
        if budget_ms is not None and not budget_ms > 0:
            raise GraftError(f"budget_ms={budget_ms} is not allowed; more than 0 is needed, or None for no limit.")
        self.n, self.frames, self.budget_ms = n, frames, budget_ms
        self._model, self._rng = Model.of(agent), np.random.default_rng(seed) if sampled else None
        if sampled:
            self._model.check_drawn()
        self._ends: list[int] = np.linspace(0, n, frames + 1).astype(int).tolist()  # of the frames' shares
        self._first, self._late = 0, n  # who is next, and how many are overdue
        self._actions: Array | None = None
        self._failed = np.zeros(n, np.bool_)  # whose latest decision
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
            GraftError: other shapes, no numbers, reals where the agent reads whole numbers, or masks for an agent
                without.
        """
        start = time.perf_counter()
        seen, allowed = self._checked(
            _numbers("Observations", obs), None if masks is None else _numbers("Masks", masks)
        )
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
        self._over += limited and self.budget_ms is not None and 1000 * spent > self.budget_ms
        self._times.add(spent)
        return actions

    def _take(self, model: Model, rows: slice, obs: Array, masks: Array | None) -> None:
        with np.errstate(invalid="ignore", over="ignore"):  # such rows do not fit
            inputs = model.inputs(obs, masks)
            right = model.fits(obs, inputs, masks is not None)
        decided = model.decide(inputs, self._rng)
        right &= decided.finite
        if self._actions is None:
            self._actions = _first_actions(model, self.n, decided.actions)
        self._actions[rows][right] = decided.actions[right]
        self._decided += len(decided.actions)
        if (fresh := ~right & ~self._failed[rows]).any():
            warnings.warn(
                f"NPC {rows.start + int(np.argmax(fresh))} keeps its last action: its observation, its mask or the "
                f"policy's outputs for it are not finite, or do not fit; stats() names all such NPCs.",
                RuntimeWarning,
                stacklevel=3,
            )
        self._failed[rows] = ~right

    def _checked(self, obs: Array, masks: Array | None) -> tuple[Array, Array | None]:
        schema, actions = self._model.schemas
        if masks is not None and not schema.flags:
            raise GraftError("This agent was trained without action masks, so that it takes none; leave masks out.")
        shape = (self.n, *(schema.plain if masks is not None and obs.shape[1:] != schema.shape else schema).shape)
        if obs.shape != shape:
            raise GraftError(f"Observations of shape {obs.shape} are not allowed; this squad reads {shape}.")
        if masks is not None and masks.shape != (self.n, len(actions.names)):
            raise GraftError(f"Masks of shape {masks.shape} are not allowed; {(self.n, len(actions.names))} is needed.")
        if obs.dtype.kind == "f" and np.dtype(schema.dtype).kind != "f":
            raise GraftError(f"Observations of {obs.dtype} are not allowed; this agent reads {schema.dtype}.")
        return obs, masks

    def swap(self, agent: Agent) -> None:
        """Let another model decide from the next frame on; may be called from another thread, as loading takes time.

        Raises:
            GraftError: a model of another contract (observations, actions), or none; the old one goes on.
        """
        new = Model.of(agent)
        self._model.check_successor(new)
        self._model = new

    def stats(self) -> dict[str, Any]:
        """Of all frames: how many, NPCs decided, frames over the budget; NPCs that are late now, and those whose
        latest decision failed; the model's hash; median and 99th percentile of the milliseconds of the latest 4,096
        frames.
        """
        counts: dict[str, Any] = {
            "frames": self._frame,
            "decided": self._decided,
            "over_budget": self._over,
            "late": self._late,
        }
        counts["failed"] = np.flatnonzero(self._failed).tolist()
        return {**counts, **self._times.summary(), "model": self._model.version}


def _numbers(what: str, given: ArrayLike) -> Array:
    try:
        found = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise GraftError(f"{what} have to be an array of numbers ({error}).") from None
    if found.dtype.kind not in "biuf":
        raise GraftError(f"{what} of {found.dtype} are not allowed; numbers are needed.")
    return found


def _first_actions(model: Model, n: int, like: Array) -> Array:
    """What NPCs play that were never decided."""
    found = np.zeros((n, *like.shape[1:]), like.dtype)
    actions = model.schemas.action
    return np.clip(found, actions.low, actions.high).astype(like.dtype) if actions.kind == "box" else found
