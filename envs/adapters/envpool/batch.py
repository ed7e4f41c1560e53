"""A batch of EnvPool's environments: autoreset, time limits and faults."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.adapters.spaces import ActionCodec, AdaptedVectorEnv, Array, ObservationCodec, first_line
from graft.envs.core.faults import FaultLog, Faults
from graft.envs.core.task import BatchOptions
from graft.errors import GraftError

MAX_SEED = 2**31 - 1  # the largest number that EnvPool holds
Bools = NDArray[np.bool_]
ALL = slice(None)


class EnvPoolVectorEnv(AdaptedVectorEnv):
    """One EnvPool in synchronous mode.

    Args:
        build: seeds (num_envs,) -> a new pool with these seeds.
        success_ends: whether every reward ends the episode, as in MiniGrid: see `step`.
        log: counts faults.
        limit: most steps of an episode, kept here: some pools play on after it (Procgen's, the highways'), and all
            others call it the end of an episode that terminates in its very last step.
    """

    def __init__(
        self,
        build: Callable[[list[int]], Any],
        options: BatchOptions,
        codecs: tuple[ObservationCodec, ActionCodec],
        success_ends: bool,
        log: FaultLog,
        limit: int | None,
    ) -> None:
        super().__init__(options, *codecs)
        self._build, self._success_ends, self._log, self._limit = build, success_ends, log, limit
        self._overdue = np.zeros(self.num_envs, np.bool_)  # must be reset, though the pool does not know
        self._pool: Any = None
        # Since the last step began: environments, what the pool or this batch showed of them, and whether it is encoded
        # already. Whole batches of pictures take long to copy.
        self._seen: list[tuple[Any, Any, bool]] = []

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Fresh episodes; ``options={"reset_mask": (N,) bool}`` resets only those environments.

        A seed resets all of them, because it builds a new pool; raises GraftError for seeds of only some environments.
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
        self._seen = [(ALL, obs.copy(), True)]
        return obs, {}

    def step(self, actions: Any) -> tuple[Array, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        """One step of all environments; the arrays returned are the caller's to keep.

        EnvPool reports an episode that ends in the last step of its time limit as truncated only. Limits are therefore
        kept here, and the pool's is a step longer. MiniGrid's cannot be, as its rewards depend on it; there, every
        reward ends the episode.
        """
        before, self._seen = self._seen, []
        obs, rewards, terminated, truncated = self._play(self._decode(np.asarray(actions)))
        if not (_finite(rewards) and (obs.dtype != np.float32 or _finite(obs))):
            failures = self._failures(obs, rewards)
            bad = np.isin(np.arange(self.num_envs), list(failures))
            obs[bad] = self._shown(before)[bad]
            self._seen.append((bad, obs[bad], True))
            # The step's own reward and end count, whatever is wrong with its observation.
            rewards = np.where(np.isfinite(rewards), rewards, 0.0)
            truncated = truncated | (bad & ~terminated)
            self._count_faults(failures)
        infos: dict[str, Any] = {}
        if self._same_step and (np.count_nonzero(terminated) or np.count_nonzero(truncated)):
            ended = np.flatnonzero(terminated | truncated).astype(np.int32)
            final = np.zeros_like(obs)
            final[ended] = obs[ended]
            infos = {"final_obs": final, "_final_obs": terminated | truncated}
            obs[ended] = self._show(ended, self._pool.reset(ended)[0])
        self._log.count_steps(self.num_envs)
        return obs, rewards.astype(np.float64), terminated, truncated, infos

    @property
    def faults(self) -> Faults:
        return self._log.faults

    def _play(self, actions: Array) -> tuple[Array, Array, Bools, Bools]:
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
        """The observations ``raw`` of the environments ``which``, encoded."""
        self._seen.append((which, raw, False))
        return self._encode(raw)

    def _blank(self) -> Array:
        return np.zeros((self.num_envs, *self.observation_schema.shape), self.observation_schema.dtype)

    def _shown(self, seen: list[tuple[Any, Any, bool]]) -> Array:
        """The observations (N, *shape) that ``seen`` adds up to."""
        obs = self._blank()
        for which, shown, encoded in seen:
            obs[which] = shown if encoded else self._encode(shown)
        return obs

    def _failures(self, obs: Array, rewards: Array) -> dict[int, str]:
        """What is not finite, by environment."""
        failures = {i: f"the reward is {rewards[i]}" for i in np.flatnonzero(~np.isfinite(rewards)).tolist()}
        flat, schema = obs.reshape(self.num_envs, -1), self.observation_schema
        for i, place in reversed(np.argwhere(~np.isfinite(flat)).tolist()):  # the first of each is kept
            k = next(k for k, part in enumerate(schema.places) if part.stop * (flat.shape[1] // obs.shape[1]) > place)
            failures[i] = f"feature '{schema.names[k]}' is {flat[i, place]}"
        return failures

    def _count_faults(self, failures: dict[int, str]) -> None:
        for i, text in sorted(failures.items()):
            self._log.add("not_finite", f"environment {i} in its step: {text}")
        self._log.check()
        if not self._same_step:
            self._overdue[list(failures)] = True

    def close_extras(self, **kwargs: Any) -> None:
        self._pool = None


def _finite(values: Array) -> bool:
    """Whether all are. A sum of squares is the fastest test, but may overflow."""
    flat = values.ravel()
    return isfinite(np.dot(flat, flat)) or bool(np.isfinite(flat).all())
