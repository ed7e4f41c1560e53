"""Plays a task and keeps an even part of the states met, over whole episodes: what is remembered of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.evaluate import eval_mode
from graft.envs.core.random_actions import sample
from graft.envs.core.task import TaskVectorEnv
from graft.errors import GraftError

Array = NDArray[Any]

SPARE_STEPS = 2048
"""Steps that each environment has to end its episode, beyond its share of the states asked for. What has not ended then
is cut there, as by a time limit: an episode of a game without end would take forever."""

PHASES = 1 << 20


class Rollouts(NamedTuple):
    """M states of a task in whole episodes, an even part of them: in order of environments, and of time in each.

    Attributes:
        observations: raw, (M, *obs_shape).
        actions: what was drawn there, (M,), (M, choices) or (M, A); those of a box may be out of its bounds.
        rewards: (M,), as the algorithm sees them. One that a time limit came after includes the discounted value, by
            the network, of the observation at that end.
        discounts: (M,), the algorithm's, and 0 where the episode ended.
        unroll: states in a row, a divisor of M. After an episode's last step comes one of another episode.
        env_steps: how many were played for them.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    unroll: int = 1
    env_steps: int = 0

    def evenly(self, states: int, unroll: int = 1) -> Rollouts:
        """``states`` of them or a few more, evenly spaced; all, where there are not twice as many.

        Args:
            unroll: that of these, to keep states in a row together, or 1.
        """
        every = max(1, len(self.actions) // max(1, states))
        width = self.unroll if unroll > 1 else 1
        count = len(self.actions) // width
        rows = torch.arange(count * width).view(count, width)[::every].flatten()
        return self._replace(
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            discounts=self.discounts[rows],
            unroll=width,
        )


def collect(
    network: PolicyNetwork,
    env: TaskVectorEnv,
    states: int,
    generator: torch.Generator,
    unroll: int = 1,
    gamma: float = 1.0,
    reward_scale: float = 1.0,
) -> Rollouts:
    """Play sampled actions over whole episodes, and keep ``states`` of the states, evenly.

    What is sampled is the policy's state distribution: of the steps that it takes, each is as likely. So episodes count
    by their length, and all of their steps alike. When ``states`` were met, every environment goes on to the end of its
    episode. By Wald's identity that favours neither short episodes nor long ones, as counting the first to finish, or
    stopping all at once, would; of longer episodes than `SPARE_STEPS` only that many steps are known.

    Args:
        env: same-step autoreset; it is reset first.
        generator: of the action samples, on the network's device; its seed is also that of the choice of states.
        unroll: states in a row that are kept together.
        gamma, reward_scale: of the algorithm that learns from them.
    Returns:
        On the CPU, in a multiple of ``unroll``. Fewer than ``states`` only where too many rows are out of play, which
        are left out.
    Raises:
        GraftError: no row was in play.
    """
    device = next(network.parameters()).device

    def choose(obs: Array) -> tuple[Array, Array]:
        drawn = network.draw(network(torch.as_tensor(obs, device=device)), generator)
        return drawn.cpu().numpy(), network.played(drawn).cpu().numpy()

    def value(obs: Array) -> Array:
        estimated: Array = network(torch.as_tensor(obs, device=device)).value.cpu().numpy()
        return estimated

    rng = np.random.default_rng(generator.initial_seed())
    with eval_mode(network), torch.no_grad():
        return _Play(env, states, unroll, rng).run(choose, value, gamma, reward_scale)


def collect_random(env: TaskVectorEnv, states: int, seed: int) -> torch.Tensor:
    """States (N, *obs_shape) of a random player, kept as by `collect`."""
    env.action_space.seed(seed % 2**32)

    def choose(obs: Array) -> tuple[Array, Array]:
        actions = sample(env, obs)
        return actions, actions

    play = _Play(env, states, 1, np.random.default_rng(seed))
    return play.run(choose, lambda obs: np.zeros(len(obs)), 1.0, 1.0).observations


class _Play:
    """Plays a batch until enough states were met and every environment has ended its episode."""

    def __init__(self, env: TaskVectorEnv, states: int, unroll: int, rng: np.random.Generator) -> None:
        self._env, self._states, self._unroll = env, max(states, unroll), unroll
        self._kept = _EvenSample(env.num_envs, unroll, max(1, states // unroll), rng)

    def run(
        self,
        choose: Callable[[Array], tuple[Array, Array]],
        value: Callable[[Array], Array],
        gamma: float,
        reward_scale: float,
    ) -> Rollouts:
        """``choose``: observations -> actions as drawn, and as played. ``value``: observations -> estimated returns."""
        env, everyone = self._env, np.ones(self._env.num_envs, np.bool_)
        going, met, played = everyone.copy(), 0, 0
        limit = -(-self._states // env.num_envs) + SPARE_STEPS
        obs, infos = env.reset()
        for step in range(1, limit + 1):
            alive = infos.get("alive", everyone)
            rows = np.flatnonzero(alive & going)
            seen = obs[rows]  # a copy: the environments may write into theirs
            drawn, actions = choose(obs)
            obs, rewards, terminated, truncated, infos = env.step(actions)
            ended = terminated | truncated
            later = np.zeros(env.num_envs, np.float32)  # value of what would have come after the end
            if truncated.any():
                later[truncated] = value(infos["final_obs"][truncated])
            if step == limit:
                cut = alive & ~ended
                if cut.any():
                    later[cut] = value(obs[cut])
                ended = ended | cut
            scaled = (reward_scale * rewards + gamma * later).astype(np.float32)
            self._kept.add(rows, (seen, drawn[rows], scaled[rows], np.float32(gamma) * ~ended[rows]))
            met, played = met + len(rows), played + int(alive.sum())
            over = infos.get("over", terminated | truncated)
            if met >= self._states or step == limit:
                done = going & (over if step < limit else everyone)
                self._kept.end(np.flatnonzero(done))
                going &= ~done
            if not going.any():
                break
        if met < self._unroll:
            raise GraftError(
                f"The {env.num_envs} rows were in play for {met} of {limit} steps; {self._unroll} or more are needed."
            )
        kept, taken, earned, discounts = map(torch.from_numpy, self._kept.arrays())
        return Rollouts(kept, taken, earned, discounts, self._unroll, played)


class _EvenSample:
    """Keeps ``wanted`` unrolls of the steps that rows add: every n-th of each row, with n as large as it must be.

    An unroll is kept or not whatever is in it, and all are as likely to be: where in its n a row begins is drawn. What
    is left of a row at its end is put together with other rows' to unrolls, so that the last steps are not missing.

    Args:
        rows: of the batch. unroll: steps of an unroll.
    """

    def __init__(self, rows: int, unroll: int, wanted: int, rng: np.random.Generator) -> None:
        self._unroll, self._wanted, self._rng, self._every = unroll, wanted, rng, 1
        self._phase = rng.integers(PHASES, size=rows + 1)  # the last row is that of what is left over
        self._filled, self._finished = np.zeros(rows + 1, np.int64), np.zeros(rows + 1, np.int64)
        self._growing: list[Array] = []  # of each field, (rows + 1, unroll, ...)
        self._kept: list[tuple[int, int, list[Array]]] = []  # row, number of the unroll, its fields

    def add(self, rows: Array, fields: tuple[Array, ...]) -> None:
        """A step of ``rows`` (n,): its fields, each (n, ...)."""
        if not self._growing:
            size = len(self._phase), self._unroll
            self._growing = [np.zeros((*size, *field.shape[1:]), field.dtype) for field in fields]
        for growing, field in zip(self._growing, fields, strict=True):
            growing[rows, self._filled[rows]] = field
        self._filled[rows] += 1
        full = rows[self._filled[rows] == self._unroll]
        for row in full[self._chosen(full, self._finished[full])]:
            whole = [growing[row].copy() for growing in self._growing]
            self._kept.append((int(row), int(self._finished[row]), whole))
        self._filled[full] = 0
        self._finished[full] += 1
        while len(self._kept) > 2 * self._wanted:
            self._every *= 2
            self._kept = [entry for entry in self._kept if self._chosen(entry[0], entry[1])]

    def _chosen(self, rows: Any, numbers: Any) -> Any:
        return (numbers + self._phase[rows]) % self._every == 0

    def end(self, rows: Array) -> None:
        """Nothing more comes of ``rows``."""
        rest = np.array([len(self._phase) - 1])
        for row in rows[self._filled[rows] > 0]:
            for step in range(int(self._filled[row])):
                self.add(rest, tuple(growing[row, step][None] for growing in self._growing))
            self._filled[row] = 0

    def arrays(self) -> list[Array]:
        """Of each field, (wanted * unroll, ...), or all that there are."""
        ordered = sorted(self._kept, key=lambda entry: entry[:2])
        if len(ordered) > self._wanted:
            places = (np.arange(self._wanted) + self._rng.random()) * (len(ordered) / self._wanted)
            ordered = [ordered[i] for i in places.astype(np.int64)]
        return [np.concatenate(parts) for parts in zip(*(fields for _, _, fields in ordered), strict=True)]
