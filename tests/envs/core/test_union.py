"""Unions of observation names, and environments whose observations are laid out as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.env_rollouts import action_streams, assert_equal, assert_restored, episodes, transitions
from support.tiny_tasks import TASK, ClockEnv, MatchEnv, ScriptedEnv, discrete, pixels, planes, vector

from graft import envs
from graft.envs.core.schema import joined
from graft.envs.core.task import Task
from graft.envs.core.union import UnionObservation, union
from graft.envs.factory import make
from graft.errors import GraftError

GATHER, HUNT = Task("Graft/Gather-v0", {"view": "planes"}), Task("Graft/Hunt-v0", {"view": "planes"})


def test_names_in_the_order_in_which_they_appear():
    both = union([vector(["b", "a"]), vector(["c", "a", "d"])])
    assert both.names == ("b", "a", "c", "d")
    assert both.shape == (4,)
    assert (both.kind, both.dtype) == ("vector", "float32")


def test_bytes_beside_a_part_of_reals_are_shown_as_reals():
    own = joined({"view": planes(["a"], 2, 2)})
    env = ScriptedEnv(own, discrete("x"), 2)
    env._observe = lambda: np.ones((2, 4), np.uint8)
    wide = UnionObservation(env, union([own, joined({"view": planes(["a"], 2, 2), "state": vector(["b"])})]))
    obs, _ = wide.reset()
    assert obs.dtype == wide.single_observation_space.dtype == np.float32
    assert obs[0].tolist() == [1, 1, 1, 1, 0]


def test_planes_keep_their_board():
    assert union([planes(["a"], 3, 4), planes(["b", "a"], 3, 4)]).shape == (2, 3, 4)


def test_attributes_are_all_that_any_gives():
    both = union([vector(["a", "b"], [["solid"], []]), vector(["a"], [["deadly", "solid"]])])
    assert both.attributes == (("deadly", "solid"), ())


def test_bounds_span_all_and_zero_where_a_task_lacks_the_name():
    """a is in both: [1, 5]. b is missing in the second and c in the first, and zero stands for them."""
    first = replace(vector(["a", "b"]), low=(2.0, 3.0), high=(5.0, 4.0))
    second = replace(vector(["a", "c"]), low=(1.0, -4.0), high=(3.0, -2.0))
    both = union([first, second])
    assert both.low == (1.0, 0.0, -4.0)
    assert both.high == (5.0, 4.0, 0.0)


def test_the_union_of_one_and_of_the_same_is_it():
    schema = vector(["a", "b"], [["solid"], []])
    assert union([schema]) == schema
    assert union([schema, schema]) == schema


@pytest.mark.parametrize(
    "other", [pixels(["a"], 5, 5), planes(["a"], 5, 6), vector(["a"]), replace(planes(["a"]), dtype="int8")]
)
def test_observations_without_a_union(other):
    with pytest.raises(GraftError, match=r"have no union.*only their names may differ"):
        union([planes(["a"]), other])


def test_observations_are_laid_out_by_name():
    """The clock shows (env, time); what it does not show is zero."""
    schema = union([vector(["other", "time"]), vector(["env", "time"])])
    env = UnionObservation(ClockEnv([2, 3]), schema)
    assert schema.names == ("other", "time", "env")
    assert env.single_observation_space.shape == (3,)
    assert env.observation_space.shape == (2, 3)
    obs, _ = env.reset()
    assert obs.tolist() == [[0, 0, 0], [0, 0, 1]]
    obs, rewards, *_, infos = env.step(np.array([0, 1]))
    assert obs.tolist() == [[0, 1, 0], [0, 1, 1]]
    assert rewards.tolist() == [10, 20]
    assert infos == {}


def test_final_observations_are_widened_too():
    """The first environment ends after two steps, seen at time 2, and its next episode begins at 0."""
    env = UnionObservation(ClockEnv([2, 3]), vector(["time", "other", "env"]))
    env.reset()
    env.step(np.zeros(2))
    obs, _, terminated, truncated, infos = env.step(np.zeros(2))
    assert (terminated.tolist(), truncated.tolist()) == ([True, False], [False, False])
    assert infos["final_obs"][0].tolist() == [2, 0, 0]
    assert infos["_final_obs"].tolist() == [True, False]
    assert obs[0].tolist() == [0, 0, 0]


def test_planes_are_widened_whole():
    own = ["a", "b", "c", "d"]
    env = UnionObservation(MatchEnv(3, 0, own, "planes", None), planes(["d", "new", "b", "a", "c"]))
    twin = MatchEnv(3, 0, own, "planes", None)
    wide, narrow = env.reset()[0], twin.reset()[0]
    assert wide.dtype == narrow.dtype == np.uint8
    assert wide.shape == (3, 5, 5, 5)
    assert np.array_equal(wide[:, [3, 2, 4, 0]], narrow)
    assert not wide[:, 1].any()


def test_a_schema_that_lacks_a_name():
    with pytest.raises(GraftError, match="env, time do not fit into time, other"):
        UnionObservation(ClockEnv([1]), vector(["time", "other"]))


def test_a_schema_of_another_form():
    with pytest.raises(GraftError, match=r"have no union"):
        UnionObservation(ClockEnv([1]), planes(["env", "time"]))


def test_everything_else_is_the_batchs_own():
    inner = ClockEnv([1, 2])
    env = UnionObservation(inner, vector(["env", "time", "more"]))
    assert env.num_envs == 2
    assert env.played is inner.played
    assert env.action_schema == inner.action_schema
    with pytest.raises(AttributeError):
        _ = env.missing


def test_the_error_names_the_difference():
    words = r"planes of uint8 and shape \(2, 5, 5\), and vector of float32 and shape \(3,\); only"
    with pytest.raises(GraftError, match=words):
        union([planes("ab"), planes("c"), vector("abc")])


def test_it_is_closed_once_and_what_cannot_be_saved_does_not_seem_so():
    inner = ClockEnv([1, 2])
    env, closed = UnionObservation(inner, vector(["env", "time", "more"])), []
    inner.close = lambda **kwargs: closed.append(kwargs)
    assert not env.savable
    env.close()
    env.close()
    assert closed == [{}]


def test_a_batch_that_does_not_fit_is_closed():
    """Gymnasium closes what is thrown away, and a half-made one must survive that."""
    inner, closed = ClockEnv([1]), []
    inner.close = lambda **_: closed.append(True)
    with pytest.raises(GraftError):
        UnionObservation(inner, vector(["time"]))
    assert closed == [True]


def test_make_widens_only_where_it_must():
    observation = envs.schemas(GATHER).observation
    assert not isinstance(make(GATHER, 2, 0, observation=observation), UnionObservation)
    assert not isinstance(make(GATHER, 2, 0), UnionObservation)
    wide = make(GATHER, 2, 0, observation=union([envs.schemas(HUNT).observation, observation]))
    assert isinstance(wide, UnionObservation)
    assert wide.observation_schema.names == ("player", "wall", "enemy", "coin", "hazard")
    with pytest.raises(GraftError, match="Observations player, wall, hazard, coin do not fit"):
        make(GATHER, 2, 0, observation=envs.schemas(HUNT).observation)


@pytest.mark.parametrize("autoreset", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_widened_game_plays_the_same_game(autoreset):
    """Every transition is the plain game's with planes moved and an empty one added; the convention stays."""
    schema = union([envs.schemas(HUNT).observation, envs.schemas(GATHER).observation])
    plain, wide = make(GATHER, 3, 7, autoreset), make(GATHER, 3, 7, autoreset, observation=schema)
    assert wide.metadata == plain.metadata
    streams = action_streams(plain, 120)
    played, played_wide = transitions(plain, streams), transitions(wide, streams)
    assert episodes(played) > 3
    places = [schema.names.index(name) for name in plain.observation_schema.names]
    absent = schema.names.index("enemy")
    assert not any(t.obs[absent].any() or t.next_obs[absent].any() for one in played_wide for t in one)
    narrowed = [[t._replace(obs=t.obs[places], next_obs=t.next_obs[places]) for t in one] for one in played_wide]
    assert_equal(narrowed, played)


def test_the_state_is_saved_and_restored_through_it():
    schema = union([envs.schemas(HUNT).observation, envs.schemas(GATHER).observation])
    one, other = make(GATHER, 3, 7, observation=schema), make(GATHER, 3, 8, observation=schema)
    assert_restored(one, other, np.random.default_rng(0).integers(0, 4, (30, 3)))


@pytest.mark.usefixtures("tiny_tasks")
def test_tasks_of_any_adapter_are_widened():
    obs, _ = make(TASK, 2, 0, observation=vector(["d", "x", "c", "b", "a"])).reset()
    plain, _ = make(TASK, 2, 0).reset()
    np.testing.assert_array_equal(obs[:, [4, 3, 2, 0]], plain)
    assert not obs[:, 1].any()
