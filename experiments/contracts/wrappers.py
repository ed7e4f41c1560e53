"""What a task in a wrapper keeps, beside a plain Gymnasium loop with the same wrapper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from graft import envs
from graft.envs import Task
from graft.envs.core.wrappers import WRAPPERS
from graft.experiments.contracts.basics import expect

STEPS = 200


class Case(NamedTuple):
    """A wrapper by name, with options, around the environment of an id; ``plain`` makes it as Gymnasium does."""

    name: str
    options: dict[str, Any]
    id: str
    plain: Callable[[], gym.Env[Any, Any]]

    @property
    def task(self) -> Task:
        return Task(self.id, {WRAPPERS: [{self.name: self.options}]})


def it_gives_an_environment(case: Case) -> None:
    """Wrapped, it can be reset and stepped, and its observations and actions are of kinds that networks take."""
    expect(envs.schemas(case.task).observation.names, "its observations have no names")


def play_equals_a_plain_loop(case: Case) -> None:
    """Rewards, ends and lengths are those of a plain loop over the wrapped environment, from the same seed."""
    env, plain = envs.make(case.task, 1, 7), case.plain()
    env.reset(seed=7)
    plain.reset(seed=7)
    plain.action_space.seed(3)
    try:
        for step in range(STEPS):
            action = plain.action_space.sample()
            _, reward, terminated, truncated, _ = plain.step(action)
            if isinstance(plain.action_space, gym.spaces.Discrete):
                batched = np.array([action - plain.action_space.start])
            else:
                batched = np.asarray(action).reshape(1, -1)
            _, rewards, ends, cuts, _ = env.step(batched)
            mine, theirs = (float(rewards[0]), bool(ends[0] or cuts[0])), (float(reward), bool(terminated or truncated))
            expect(mine[1] == theirs[1], f"at step {step} an episode ends in one and not in the other")
            close = np.isclose(mine[0], theirs[0], rtol=1e-9, atol=1e-12)
            expect(close, f"at step {step} the reward is {mine[0]}, and {theirs[0]} in a plain loop")
            if theirs[1]:
                break  # the next episode's seed is Graft's own
        expect(not env.faults.total, f"it fails: {env.faults.last}")
    finally:
        env.close()
        plain.close()  # type: ignore[no-untyped-call]


def the_same_seed_plays_the_same(case: Case) -> None:
    """Two batches of the same seed see, get and end the same."""
    one, other = (envs.make(case.task, 2, 11) for _ in range(2))
    try:
        expect(np.array_equal(one.reset()[0], other.reset()[0]), "the same seed begins differently")
        one.action_space.seed(0)
        for _ in range(STEPS):
            actions = one.action_space.sample()
            for a, b in zip(one.step(actions)[:4], other.step(actions)[:4], strict=True):
                expect(np.array_equal(a, b), "the same seed plays differently; draw from self.np_random, not globally")
        expect(not one.faults.total, f"it fails: {one.faults.last}")
    finally:
        one.close()
        other.close()


CONTRACTS: tuple[Callable[[Case], None], ...] = (
    it_gives_an_environment,
    play_equals_a_plain_loop,
    the_same_seed_plays_the_same,
)
