"""Action masks of single environments: wherever they are, what is forbidden is flagged, and is never played."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.masked_envs import KINDS, LIFE, Masked, Seen, register

from graft import envs
from graft.envs import Task
from graft.envs.adapters.masks import names_mask
from graft.envs.core.action_masks import flags_of
from graft.envs.core.random_actions import RandomActions, allowed_actions, no_op, sample
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas, flag_names, masked
from graft.envs.core.union import union
from graft.envs.factory import check
from graft.errors import GraftError

register()
SIZES = ((), (3, 2))
MISSING = r"its info has no action_mask"
MULTI = ActionSchema("multi", tuple("abcde"), sizes=(3, 2))


def task(where: str, sizes: tuple[int, ...] = (), **more: Any) -> Task:
    return Task("Masked-v0", {"where": where, "sizes": list(sizes), **more})


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("where", KINDS)
def test_what_is_shown_is_what_a_plain_loop_sees(where: str, sizes: tuple[int, ...]) -> None:
    """Observations, flags, rewards and ends of 200 steps of random play that is never forbidden."""
    Seen.reset()
    count, plain = sum(sizes) or 4, Masked("info", sizes)
    with closing(envs.make(task(where, sizes), 1, 7)) as env:
        assert env.observation_schema.plain.names == tuple(f"seen_{i}" for i in range(count))
        obs, _ = env.reset()
        env.action_space.seed(0)
        raw, info = plain.reset(seed=7)
        for _ in range(200):
            np.testing.assert_array_equal(obs[0], np.concatenate([raw, ~info["action_mask"]]).astype(np.float32))
            np.testing.assert_array_equal(env.schemas.forbidden(obs)[0], ~info["action_mask"])
            action = sample(env, obs)
            obs, rewards, terminated, truncated, infos = env.step(action)
            raw, reward, ended, _, info = plain.step(action[0])
            assert (rewards[0], terminated[0], truncated[0]) == (reward, ended, False)
            if ended:  # the mask allows nothing any more, which is no fault, and forbids nothing
                np.testing.assert_array_equal(infos["final_obs"][0], np.concatenate([raw, np.zeros(count)]))
                raw, info = plain.reset()
        assert env.faults.total == 0
    assert (Seen.played, Seen.forbidden) == (400, 0)


def test_gymnasiums_own_masked_game() -> None:
    plain = gym.make("Taxi-v3")
    with closing(envs.make(Task("Taxi-v3"), 1, 7)) as env:
        obs, (raw, info) = env.reset()[0], plain.reset(seed=7)
        for _ in range(60):
            assert obs[0].argmax() == raw
            np.testing.assert_array_equal(obs[0, 500:], 1 - info["action_mask"])
            action = int(np.flatnonzero(info["action_mask"])[-1])
            obs, rewards, *_ = env.step(np.array([action]))
            raw, reward, _, _, info = plain.step(action)
            assert rewards[0] == reward


@pytest.mark.parametrize("fault", ["empty", "short", "other", "missing"])
def test_a_faulty_mask_is_a_fault_and_the_step_counts(fault: str) -> None:
    said = {
        "empty": "its action mask allows no action",
        "short": "its action mask has 1 numbers, and there are 4 actions",
        "other": "its action mask holds other values than 0 and 1: [2, 2, 2, 2]",
        "missing": "its info has no action_mask",
    }
    with closing(envs.make(task("info", fault=fault), 1, 0)) as env:
        obs, _ = env.reset()
        steps = []
        for _ in range(3):
            before = obs
            obs, *step = env.step(env.schemas.forbidden(obs).argmin(-1))
            steps.append(step)
        assert [step[0][0] for step in steps] == [1.0, 1.125, 1.25]  # also of the step with the faulty mask
        assert [bool(step[2][0]) for step in steps] == [False, False, True]
        np.testing.assert_array_equal(steps[2][3]["final_obs"], before)
        assert env.faults["outside"] == 1
        assert said[fault] in env.faults.last


def test_masks_can_be_left_out_or_asked_for() -> None:
    assert [envs.schemas(task(where, action_masks=False)).observation.kind for where in KINDS] == [
        *("vector", "vector", "parts")
    ]
    assert envs.schemas(task("info", action_masks=True)).observation.kind == "masked"
    with closing(envs.make(task("none", action_masks=True), 1, 0)) as env, pytest.raises(GraftError, match=MISSING):
        env.reset()
    with pytest.raises(GraftError, match=r"action_masks=true of Pendulum-v1: it gives no masks of discrete actions"):
        envs.make(Task("Pendulum-v1", {"action_masks": True}), 1, 0)
    with pytest.raises(GraftError, match="action_masks='no' of Masked-v0 is not allowed; give true or false"):
        envs.make(task("none", action_masks="no"), 1, 0)


def test_masks_that_nobody_spoke_of_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Secret(Masked):
        """Its infos come from elsewhere."""

        def reset(self, **keywords: Any) -> Any:
            return super().reset(**keywords)[0], {"_".join(("action", "mask")): self.allowed}

    monkeypatch.setattr("support.masked_envs.Masked._shown", lambda self, obs: (obs, {}))
    monkeypatch.setattr("graft.envs.adapters.gymnasium.adapter.names_mask", lambda env: False)
    monkeypatch.setitem(gym.registry, "Secret-v0", gym.envs.registration.EnvSpec("Secret-v0", Secret))
    with closing(envs.make(Task("Secret-v0"), 1, 0)) as env:
        assert env.observation_schema.kind == "vector"
        with pytest.raises(GraftError, match=r"infos hold an action_mask; say action_masks: true .* or .*false"):
            env.reset()
    with closing(envs.make(Task("Secret-v0", {"action_masks": False}), 1, 0)) as env:
        env.reset()


def test_a_mask_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Masked):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.action_space = gym.spaces.Discrete(5)

    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", Odd))
    with pytest.raises(GraftError, match=r"action_mask of 4 numbers, and has 5 actions.*action_masks: false"):
        envs.make(Task("Odd-v0", {"where": "observation"}), 1, 0)


def test_actions_without_a_mask_show_what_they_always_did() -> None:
    """A mask beside a box of actions is a part like others, and of no environment is one made only to look twice."""
    box = gym.spaces.Dict({"observation": gym.spaces.Box(0, 1, (2,)), "action_mask": gym.spaces.MultiBinary(2)})

    class Moves(gym.Env[Any, Any]):
        observation_space, action_space = box, gym.spaces.Box(-1, 1, (2,))

    gym.register("Moves-v0", Moves)
    try:
        assert envs.schemas(Task("Moves-v0")).observation.kind == "parts"
    finally:
        del gym.registry["Moves-v0"]
    Masked.made = 0
    for _ in range(3):  # its class can give masks
        with closing(envs.make(task("none", count=7), 2, 0)) as env:
            assert env.observation_schema.kind == "vector"
    assert Masked.made == 3 * 2 + 1
    assert not names_mask(gym.make("CartPole-v1"))
    assert names_mask(gym.make("Taxi-v3"))


def test_flags_follow_the_names_that_a_user_gives() -> None:
    named = envs.schemas(task("info", schema={"observation": list("wxyz"), "action": {"do_1": "jump"}}))
    assert named.observation.plain.names == tuple("wxyz")
    assert named.observation.flags == flag_names(named.action)
    assert named.observation.flags[1] == "forbidden/jump"
    plain = {"id": "Masked-v0", "kwargs": {"where": "none", "schema": {"observation": list("wxyz")}}}
    like = envs.schemas(task("info", schema={"as": plain}))
    assert like.observation.plain.names == tuple("wxyz")
    assert ObservationSchema.from_json(like.observation.to_json()) == like.observation


def test_masks_may_be_lists_and_tuples() -> None:
    wanted = [False, True, True, True, False]
    for mask in ([1, 0, 0, 0, 1], ([1, 0, 0], [0, 1]), (np.array([1, 0, 0], np.int8), np.array([False, True]))):
        assert flags_of(mask, MULTI).tolist() == wanted
    assert flags_of(None, MULTI).tolist() == [False] * 5


def test_a_union_with_unmasked_tasks_forbids_nothing_there() -> None:
    mine, other = envs.schemas(task("info")), envs.schemas(task("none"))
    both = union([other.observation, mine.observation])
    assert both == mine.observation
    with closing(envs.make(task("none"), 3, 0, observation=both)) as env, closing(envs.make(task("none"), 3, 0)) as own:
        obs, plain = env.reset()[0], own.reset()[0]
        np.testing.assert_array_equal(obs[:, :4], plain)
        assert not obs[:, 4:].any()
        assert not env.schemas.forbidden(obs).any()


def test_a_board_with_flags_is_laid_out_by_names() -> None:
    board = ObservationSchema("planes", ("a", "b"), ((), ()), (2, 2, 3), "uint8", (0.0, 0.0), (1.0, 1.0))
    flagged = masked(board, ("forbidden/x", "forbidden/y"))
    assert [(place.start, place.stop) for place in flagged.places] == [(0, 6), (6, 12), (12, 13), (13, 14)]
    assert flagged.space().shape == (14,)
    actions = ActionSchema("discrete", ("y", "z", "x"))
    obs = np.zeros((1, 14))
    obs[0, 12] = 1  # x, which is the last of these actions
    assert Schemas(flagged, actions).forbidden(obs).tolist() == [[False, False, True]]


def test_thousands_of_actions_are_masked_in_no_time() -> None:
    """As chess has: the places of flags are found once, and not by a search for each."""
    actions = ActionSchema("discrete", tuple(map(str, range(5000))))
    board = ObservationSchema("vector", ("seen",), ((),), (1,), "float32", (0.0,), (1.0,))
    both = Schemas(masked(board, flag_names(actions)[::-1]), actions)
    obs = np.zeros((2, 5001), np.float32)
    obs[1, 1] = 1  # the first flag, which is that of the last action
    start = time.process_time()
    for _ in range(20):
        forbidden = both.forbidden(obs)
    assert time.process_time() - start < 1, "a search for each of them took 20 s"
    assert np.argwhere(forbidden).tolist() == [[1, 4999]]


def test_random_actions_are_uniform_among_those_allowed() -> None:
    forbidden = np.broadcast_to([False, True, False, False, True], (1000, 20, 5))
    dice = RandomActions(1000)
    dice.seed(3)
    drawn = dice.actions(MULTI, 20, forbidden)
    first = np.bincount(drawn[..., 0].ravel(), minlength=3) / 20_000
    assert first[1] == 0
    assert abs(first[0] - 0.5) < 0.02  # 5 standard deviations
    assert not drawn[..., 1].any()
    assert no_op(MULTI, (1000, 20), ~forbidden)[0, 0].tolist() == [1, 1]
    one = ActionSchema("discrete", tuple("abc"))
    assert allowed_actions(one, np.array([[0.0], [0.999999]]), np.array([[1, 0, 0], [0, 0, 1]], bool)).tolist() == [
        1,
        1,
    ]


def test_lives_end(recwarn: pytest.WarningsRecorder) -> None:
    assert check(task("observation"), longest=LIFE) == 1
    assert not recwarn.list


def test_under_next_step_autoreset_as_in_recordings() -> None:
    """The step after an end is a reset, and its action is not played."""
    Seen.reset()
    with closing(envs.make(task("method"), 4, 0, AutoresetMode.NEXT_STEP)) as env:
        obs, _ = env.reset()
        env.action_space.seed(0)
        ends = 0
        for _ in range(10 * (LIFE + 1)):
            obs, _, terminated, *_ = env.step(sample(env, obs))
            ends += int(terminated.sum())
    assert (ends, Seen.played, Seen.forbidden) == (40, 40 * LIFE, 0)


@pytest.mark.slow
@pytest.mark.parametrize("rules", [{}, {"faults": {"step_timeout": 60}}], ids=["workers", "step_timeout"])
def test_masks_come_from_other_processes(rules: dict[str, Any]) -> None:
    def played(workers: int, **more: Any) -> np.ndarray[Any, Any]:
        given = Task("support.masked_envs:Masked-v0", {"where": "info", **more})
        with closing(envs.make(given, 4, 0, workers=workers)) as env:
            obs, _ = env.reset()
            env.action_space.seed(0)
            seen = [obs] + [obs := env.step(sample(env, obs))[0] for _ in range(30)]
        return np.stack(seen)

    reference = played(1)
    assert reference[..., 4:].any()
    np.testing.assert_array_equal(played(1 if rules else 2, **rules), reference)
