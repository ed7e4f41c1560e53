"""Environments that do not keep to Gymnasium's interface, which is said in one sentence; rewards of any form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.core.faults import TooManyFaults
from graft.envs.factory import check
from graft.envs.supervision.interface import WrongInterface, scalar_reward

Box = gym.spaces.Box
SPACES = {
    "one": Box(-1, 1, (1,)),
    "pair": Box(-1, 1, (2,)),
    "dict": gym.spaces.Dict({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, (1,))}),
    "tuple": gym.spaces.Tuple((Box(-1, 1, (2,)), gym.spaces.Discrete(2))),
    "number": gym.spaces.Discrete(2),
}


class Old(gym.Env[Any, Any]):
    """An environment for Gym as it was before version 0.26, in ``parts`` of its interface."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, space: str = "pair", parts: str = "reset", wrapped: bool = False) -> None:
        self.observation_space, self.parts = SPACES[space], parts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        obs = self.observation_space.sample()
        return obs if "reset" in self.parts else (obs, {})

    def step(self, action: Any) -> Any:
        if "own" in self.parts:
            _, _, _, _, _ = (1, 2, 3, 4)  # type: ignore[misc]
        obs = self.observation_space.sample()
        return (obs, 0.0, True, {}) if "step" in self.parts else (obs, 0.0, True, False, {})


class Seedless(Old):
    def reset(self) -> Any:  # type: ignore[override]
        return self.observation_space.sample()


def make_old(wrapped: bool = False, **kwargs: Any) -> Any:
    """An old environment, where ``wrapped`` in a wrapper that expects the new interface."""
    env: Any = Old(**kwargs)
    return gym.wrappers.TransformObservation(env, lambda obs: obs, env.observation_space) if wrapped else env


class Paid(gym.Env[Any, Any]):
    """Pays what ``plan`` says, in turn; an episode has as many steps."""

    observation_space = Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    plan: tuple[Any, ...] = (0.0,)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        reward = self.plan[self.taken - 1]
        return np.zeros(1, np.float32), reward, self.taken == len(self.plan), False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    found = {"Old-v0": make_old, "Seedless-v0": Seedless, "Paid-v0": Paid}
    for name, entry in found.items():
        gym.register(name, entry_point=entry)  # type: ignore[arg-type]
    yield
    for name in found:
        del gym.registry[name]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rules", [{}, {"outside": False}])
def test_a_reset_that_returns_the_observation_alone_is_recognised(
    space: str, wrapped: bool, rules: dict[str, Any]
) -> None:
    task = Task("Old-v0", {"space": space, "wrapped": wrapped, "max_episode_steps": 9, "faults": rules})
    said = (
        r"Task 'Old-v0' cannot be played: its reset\(\) returns the observation alone, as in Gym before 0\.26; it has "
        r"to return \(observation, info\)\."
    )
    with pytest.raises(GraftError, match=said):
        check(task)


def test_a_reset_without_a_seed_and_a_step_of_four_values_are_recognised() -> None:
    with pytest.raises(GraftError, match=r"its reset\(\) takes no seed and no options, as in Gym before 0\.26"):
        check(Task("Seedless-v0"))
    for limit in {}, {"max_episode_steps": 9}:
        said = r"its step\(\) returns 4 values, as in Gym before 0\.26; it has to return \(observation, reward, term"
        with pytest.raises(GraftError, match=said):
            check(Task("Old-v0", {"parts": "step", **limit}))
    with pytest.raises(GraftError, match=r"ValueError: not enough values to unpack .*test_interface\.py"):
        check(Task("Old-v0", {"parts": "own"}))  # a mistake of its own is a fault like others


def returns_of(plan: tuple[Any, ...], **kwargs: Any) -> list[float]:
    Paid.plan = plan
    env = envs.make(Task("Paid-v0", kwargs), 1, 0)
    env.reset()
    found = [float(env.step(np.zeros(1, np.int64))[1][0]) for _ in plan]
    assert env.faults.total == 0
    return found


def test_rewards_of_size_one_are_taken_in_any_form() -> None:
    forms = (1, 1.5, True, np.float32(2.5), np.int64(3), np.array(4.5), np.array([5.5]), np.array([[6]]), [7.5], (8,))
    assert returns_of(forms) == [1, 1.5, 1, 2.5, 3, 4.5, 5.5, 6, 7.5, 8]
    assert scalar_reward(np.array([True])) == 1.0


def test_rewards_of_several_numbers_are_weighted() -> None:
    rng = np.random.default_rng(0)
    plan, weights = tuple(rng.normal(size=(12, 3))), [1, -0.1, 0.5]
    np.testing.assert_allclose(returns_of(plan, reward_weights=weights), [np.dot(r, weights) for r in plan])
    assert returns_of((2.0, [3.0]), reward_weights=[-2]) == [-4, -6]
    Paid.plan = plan
    for kwargs, said in {
        (): r"its reward is 3 numbers \(shape \(3,\)\); give the task reward_weights, a list of 3",
        (1, 2): "its reward has 3 numbers, and reward_weights 2 numbers; give one weight for each",
    }.items():
        given = {"reward_weights": list(kwargs)} if kwargs else {}
        with pytest.raises(GraftError, match=rf"Task 'Paid-v0' cannot be played: {said}"):
            check(Task("Paid-v0", given))


@pytest.mark.parametrize("given", [[], 3, ["a"], [1, float("nan")], [True]])
def test_weights_that_make_no_sense(given: Any) -> None:
    with pytest.raises(GraftError, match=re.escape(f"reward_weights={given!r} of Paid-v0 is not allowed; give a list")):
        envs.make(Task("Paid-v0", {"reward_weights": given}), 1, 0)


def test_a_reward_that_is_no_number_is_a_fault_that_says_reward() -> None:
    Paid.plan = (None,)
    with pytest.raises(GraftError, match="the reward is a NoneType, not a number"):
        check(Task("Paid-v0"))
    Paid.plan = (np.array([1.0, np.nan]),)
    with pytest.raises(GraftError, match="the reward is nan"):
        check(Task("Paid-v0", {"reward_weights": [1, 1]}))
    with pytest.raises(WrongInterface):
        scalar_reward([])


def test_the_error_of_another_process_is_the_same() -> None:
    env = envs.make(Task("support.old_env:OldElsewhere-v0"), 2, 0, workers=2)
    try:
        with pytest.raises(
            GraftError, match=r"cannot be played: its reset\(\) returns the observation alone"
        ) as caught:
            env.reset()
        assert not isinstance(caught.value, TooManyFaults)
    finally:
        env.close()
    env = envs.make(Task("support.old_env:CrampedElsewhere-v0"), 4, 0, workers=2)
    try:
        obs, _ = env.reset()
        assert obs.tolist() == [[255] * 4] * 4  # 300 and 455 are no bytes
        assert env.faults.clipped == 4
        assert env.faults.clipped_first == "part 'image'[0, 0] is 300, allowed are 0 to 255"
        assert env.step(np.zeros(4, np.int64))[1].tolist() == [2.0] * 4
        assert (env.faults.total, env.faults.clipped) == (0, 8)
    finally:
        env.close()
