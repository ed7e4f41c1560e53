"""A Graft batch as Stable-Baselines3 sees it, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.tiny_tasks import ClockEnv

from graft import envs
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.envs.core.task import Task
from graft.errors import GraftError

WAIT = np.zeros(2, np.int64)


def test_steps_by_hand():
    """Environment 0 terminates after 2 steps that pay 10 and 11, environment 1 is truncated after 3: 20, 21, 22."""
    env = BatchVecEnv(ClockEnv([2, 3]))
    assert env.num_envs == 2
    np.testing.assert_array_equal(env.reset(), [[0, 0], [1, 0]])

    obs, rewards, dones, infos = env.step(WAIT)
    np.testing.assert_array_equal(obs, [[0, 1], [1, 1]])
    assert (rewards.tolist(), rewards.dtype, dones.tolist(), infos) == ([10, 20], np.float32, [False, False], [{}, {}])

    obs, rewards, dones, infos = env.step(WAIT)
    np.testing.assert_array_equal(obs, [[0, 0], [1, 2]])
    assert (rewards.tolist(), dones.tolist()) == ([11, 21], [True, False])
    assert infos[1] == {}
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [0, 2])
    assert infos[0]["TimeLimit.truncated"] is False
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (21.0, 2)

    obs, rewards, dones, infos = env.step(WAIT)
    np.testing.assert_array_equal(obs, [[0, 1], [1, 0]])
    assert (rewards.tolist(), dones.tolist()) == ([10, 22], [False, True])
    assert infos[0] == {}  # what was reported in the step before is not repeated
    np.testing.assert_array_equal(infos[1]["terminal_observation"], [1, 3])
    assert infos[1]["TimeLimit.truncated"] is True
    assert (infos[1]["episode"]["r"], infos[1]["episode"]["l"]) == (63.0, 3)

    obs, rewards, dones, infos = env.step(WAIT)
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (21.0, 2)  # the second episode starts from zero


def test_both_ends_at_once_is_an_end_not_a_time_limit():
    class Both(ClockEnv):
        def _outcome(self, actions):
            rewards, terminated, truncated = super()._outcome(actions)
            return rewards, terminated | truncated, terminated | truncated

    env = BatchVecEnv(Both([1, 1]))
    env.reset()
    _, _, dones, infos = env.step(WAIT)
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False]


def test_reset_forgets_what_was_played():
    env = BatchVecEnv(ClockEnv([3, 3]))
    env.reset()
    env.step(WAIT)
    np.testing.assert_array_equal(env.reset(), [[0, 0], [1, 0]])
    for _ in range(3):
        *_, infos = env.step(WAIT)
    assert [(i["episode"]["r"], i["episode"]["l"]) for i in infos] == [(33.0, 3), (63.0, 3)]


def test_next_step_autoreset_is_refused():
    with pytest.raises(GraftError, match="needs same-step autoreset"):
        BatchVecEnv(envs.make(Task("Graft/Gather-v0"), 2, 0, AutoresetMode.NEXT_STEP))


def test_the_librarys_seed_leaves_the_batch_alone():
    env, plain = (envs.make(Task("Graft/Gather-v0"), 2, 7) for _ in range(2))
    wrapped = BatchVecEnv(env)
    wrapped.seed(123)
    np.testing.assert_array_equal(wrapped.reset(), plain.reset()[0])


def test_single_environments_cannot_be_reached():
    env = BatchVecEnv(ClockEnv([3, 3]))
    assert env.get_attr("num_envs") == [2, 2]
    assert env.get_attr("nothing", indices=0) == [None]
    assert env.env_is_wrapped(object, indices=[0, 1]) == [False, False]
    with pytest.raises(GraftError, match="Cannot set 'lengths'"):
        env.set_attr("lengths", 3)
    with pytest.raises(GraftError, match="Cannot call 'render'"):
        env.env_method("render")


def test_closing_closes_the_batch():
    env = ClockEnv([3, 3])
    BatchVecEnv(env).close()
    assert env.closed
