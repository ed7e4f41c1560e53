"""The replay buffer, and which transitions get into it."""

from __future__ import annotations

import numpy as np
import pytest
from support.rllib_sac import fresh

from graft.agents.rllib.module import module_spec
from graft.agents.rllib.replay import ReplayBuffer, TransitionCollector
from graft.agents.rllib.rollout_collector import StepResult

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def test_the_buffer_keeps_the_latest():
    replay = ReplayBuffer(5, 0)
    replay.add({"a": np.arange(3)})
    assert set(replay.sample(100)["a"]) == {0, 1, 2}
    replay.add({"a": np.arange(3, 7)})
    assert set(replay.sample(200)["a"]) == {2, 3, 4, 5, 6}
    replay.add({"a": np.arange(10, 30)})
    assert set(replay.sample(200)["a"]) == {25, 26, 27, 28, 29}


def test_the_buffer_goes_on_where_it_was():
    replay, other = ReplayBuffer(5, 0), ReplayBuffer(5, 1)
    replay.add({"a": np.arange(7, dtype=np.int16)})
    replay.sample(3)
    saved = replay.save()
    other.restore(saved)
    for which in (replay, other):
        which.add({"a": np.array([9, 10], np.int16)})
    drawn = [which.sample(50)["a"] for which in (replay, other)]
    np.testing.assert_array_equal(*drawn)
    assert drawn[1].dtype == np.int16
    assert set(drawn[1]) == {4, 5, 6, 9, 10}


def test_transitions_are_of_rows_in_play_and_end_where_the_episode_did():
    """Row 0 terminates in the first step, row 1 is truncated in it, row 2 is out of play until the second."""
    module = module_spec(fresh()).build()
    player = TransitionCollector(module, 3, 0, 10.0, "cpu")
    start, then, after, last = (np.full((3, 2), value, np.float32) for value in (0.1, 0.2, 0.3, 0.9))
    no, everybody = np.zeros(3, bool), np.ones(3, bool)
    player.reset(start, np.array([True, True, False]))
    player.begin(2)
    player.act()
    player.record(
        StepResult(
            then, np.array([1.0, 2, 0]), np.array([True, False, False]), np.array([False, True, False]), everybody, last
        )
    )
    player.at_random = True
    played = player.act()
    player.record(StepResult(after, np.array([4.0, 5, 6]), no, no, everybody, None))
    found = player.transitions()
    np.testing.assert_array_equal(found["obs"][:, 0], np.float32([0.1, 0.1, 0.2, 0.2, 0.2]))
    np.testing.assert_array_equal(found["new_obs"][:, 0], np.float32([0.9, 0.9, 0.3, 0.3, 0.3]))
    np.testing.assert_array_equal(found["rewards"], [10, 20, 40, 50, 60])
    np.testing.assert_array_equal(found["terminateds"], [True, False, False, False, False])
    np.testing.assert_array_equal(found["actions"][2:], played)
    assert (abs(played) <= 0.5).all()
    assert player.ended.returns.tolist() == [1.0, 2.0]
