"""Mixtures of tasks in one batch, against the tasks on their own."""

from __future__ import annotations

import math
from contextlib import closing

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support import pull_env
from support.env_rollouts import assert_restored
from support.tiny_tasks import box, vector

from graft import envs
from graft.envs import Schemas, Task
from graft.envs.adapters.mixture import ID, mixture
from graft.envs.core.task import AVERAGED
from graft.envs.core.union import UnionObservation
from graft.envs.factory import check
from graft.errors import GraftError

GAMES = ["Graft/Gather-v0", "Graft/Hunt-v0", "Graft/Dodge-v0"]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_every_environment_plays_its_task_as_if_it_were_alone(mode):
    together, union = envs.make(mixture(GAMES), 8, 5, mode), envs.schemas(mixture(GAMES)).observation
    alone = [envs.make(Task(game), 3 if k < 2 else 2, 5 + k, mode, observation=union) for k, game in enumerate(GAMES)]
    obs, infos = together.reset()
    assert infos["task"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    for k, env in enumerate(alone):
        np.testing.assert_array_equal(obs[k::3], env.reset()[0])
    together.action_space.seed(0)
    ended = 0
    for _ in range(60):
        actions = together.action_space.sample()
        step = together.step(actions)
        for k, env in enumerate(alone):
            own = env.step(actions[k::3])
            for mine, theirs in zip(step[:4], own[:4], strict=True):
                np.testing.assert_array_equal(mine[k::3], theirs)
            if "final_obs" in own[4]:
                valid = own[4]["_final_obs"]
                np.testing.assert_array_equal(step[4]["_final_obs"][k::3], valid)
                np.testing.assert_array_equal(step[4]["final_obs"][k::3][valid], own[4]["final_obs"][valid])
                ended += 1
    assert ended > 0 or mode is AutoresetMode.NEXT_STEP


def test_the_task_can_be_shown():
    task = mixture(GAMES[:2], show_task=True)
    names = envs.schemas(task).observation.names
    assert names[-2:] == ("task:Gather", "task:Hunt")
    obs = envs.make(task, 4, 0).reset()[0]
    assert obs[:, -2:].mean((2, 3)).tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_a_mixture_in_a_config_has_a_name_and_a_scale():
    task = Task(ID, {"tasks": [GAMES[0], {"id": GAMES[2], "kwargs": {"slip": 0.2}}]})
    assert str(task) == "Mixture(tasks=[Graft/Gather-v0, Dodge(slip=0.2)])"
    one, other = envs.bounds(Task(GAMES[0])), envs.bounds(Task(GAMES[2]))
    assert envs.bounds(task).expert == pytest.approx((one.expert + other.expert) / 2)
    assert envs.bounds(task).how == AVERAGED


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "tasks=None is not allowed; list two tasks"),
        ({"tasks": ["Graft/Gather-v0"]}, "list two tasks or more"),
        ({"tasks": GAMES[:1] * 2}, "Gather is listed twice"),
        ({"tasks": ["Graft/Gahter-v0", "Graft/Hunt-v0"]}, "Did you mean 'Graft/Gather-v0'"),
        ({"tasks": ["Graft/Gather-v0", "CartPole-v1"]}, "no mixture: Gather takes discrete actions .noop"),
        (
            {"tasks": [GAMES[0], {"id": GAMES[1], "kwarg": {}}]},
            "task in a mixture 'kwarg'.*mean 'kwargs'",
        ),
        ({"tasks": [GAMES[0], {"id": GAMES[1], "kwargs": 3}]}, "list two tasks or more, by id"),
        ({"tasks": [GAMES[0], {"id": GAMES[1], "kwargs": {"slap": 0.1}}]}, "Did you mean 'slip'"),
        ({"tasks": GAMES, "show": True}, "Did you mean 'show_task'"),
        ({"tasks": GAMES, "show_task": 1}, "show_task=1 is not allowed"),
    ],
)
def test_what_cannot_be_mixed(kwargs, words):
    with pytest.raises(GraftError, match=words):
        envs.make(Task(ID, kwargs), 4, 0)


def match(*names, **kwargs):
    return {"id": "tiny/Match-v0", "kwargs": {"names": list(names), **kwargs}}


@pytest.mark.usefixtures("tiny_tasks")
@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([GAMES[0], GAMES[2], {"id": GAMES[1], "kwargs": {"view": "pixels"}}], r"Gather and Hunt.view=pixels. have no"),
        (
            [{"id": GAMES[k], "kwargs": {"view": view}} for k, view in enumerate(("planes", "pixels"))],
            r"\(4, 10, 10\), and pixels of uint8 .* \(3, 64, 64\)",
        ),
        ([match(*"abcd"), match(*"abcd", kind="planes")], r"vector of float32 .* planes of uint8"),
        (
            [match(*"abcd"), "tiny/Reach-v0"],
            r"discrete actions \(north, .* box actions \(move_x, move_y\); their",
        ),
    ],
)
def test_what_differs_is_named(tasks, words):
    with pytest.raises(GraftError, match=words):
        envs.make(Task(ID, {"tasks": tasks}), 4, 0)


def test_bounds_of_actions_that_differ_are_named(monkeypatch):
    found = {"a": box(["x"]), "b": box(["x"], -math.inf, math.inf)}
    monkeypatch.setattr("graft.envs.adapters.mixture.schemas", lambda task: Schemas(vector(["o"]), found[task.id]))
    with pytest.raises(GraftError, match=r"\(x\) from \[-1.0\] to \[1.0\], b box actions .* from \[-inf\]"):
        envs.make(mixture(["a", "b"]), 2, 0)


def test_no_task_is_left_out():
    with pytest.raises(GraftError, match=r"mixture of 3 tasks needs 3 .*\(Gather, Hunt, Dodge\); this batch has 2"):
        envs.make(mixture(GAMES), 2, 0)
    alone = envs.make(mixture(GAMES), 1, 0)
    assert alone.schemas == envs.schemas(mixture(GAMES))
    with pytest.raises(GraftError, match="this batch has 1"):
        alone.reset()
    check(mixture(GAMES))


def test_groups_say_which_rows_are_whose():
    env = envs.make(mixture([GAMES[0], Task(GAMES[2], {"slip": 0.2})]), 5, 0)
    assert env.groups.names == ("Gather", "Dodge(slip=0.2)")
    assert env.groups.of_row.tolist() == [0, 1, 0, 1, 0]
    assert env.groups.scales == (envs.bounds(Task(GAMES[0])), envs.bounds(Task(GAMES[2])))
    wide = envs.make(mixture(GAMES[:1] + GAMES[2:]), 4, 0, observation=envs.schemas(mixture(GAMES)).observation)
    assert isinstance(wide, UnionObservation)
    assert wide.groups.names == ("Gather", "Dodge")
    assert envs.make(Task(GAMES[0]), 2, 0).groups is None


def test_a_list_of_seeds_is_of_the_environments():
    together = envs.make(mixture(GAMES[:2]), 5, 0)
    union = together.observation_schema
    obs, _ = together.reset(seed=[10, 20, 30, 40, 50])
    for k, seeds in enumerate([[10, 30, 50], [20, 40]]):
        alone = envs.make(Task(GAMES[k]), len(seeds), 0, observation=union)
        np.testing.assert_array_equal(obs[k::2], alone.reset(seed=seeds)[0])
    np.testing.assert_array_equal(together.reset(seed=[10, 20, 30, 40, 50])[0], obs)
    with pytest.raises(GraftError, match="one for each of 5 games"):
        together.reset(seed=[1, 2])


def test_a_mask_resets_only_its_environments():
    env, mask = envs.make(mixture(GAMES), 6, 3), np.array([1, 0, 0, 1, 1, 0], bool)
    env.reset()
    for _ in range(3):
        before = env.step(np.full(6, 1))[0]
    after, infos = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert all((after[i] != before[i]).any() for i in np.flatnonzero(mask))
    assert infos["task"].tolist() == [0, 1, 2] * 2
    with pytest.raises(GraftError, match="one flag for each of 6 games"):
        env.reset(options={"reset_mask": mask[:3]})
    with pytest.raises(GraftError, match=r"reset option of a mixture 'mask'.*Did you mean 'reset_mask'"):
        env.reset(options={"mask": mask})


@pytest.mark.parametrize("wide", [False, True])
def test_the_state_is_saved_and_restored(wide):
    task = mixture(GAMES[::2], show_task=not wide)
    union = envs.schemas(mixture(GAMES)).observation if wide else None
    one, other = (envs.make(task, 5, seed, observation=union) for seed in (7, 8))
    assert_restored(one, other, np.random.default_rng(0).integers(0, 6, (40, 5)))


@pytest.mark.usefixtures("tiny_tasks")
def test_where_one_part_cannot_be_saved_the_mixture_cannot():
    tasks = [match(*"abcd"), match(*"abce")]
    env = envs.make(Task(ID, {"tasks": tasks}), 2, 0)
    assert not env.savable


def test_boxes_of_other_bounds_are_stretched_from_one_to_the_other(monkeypatch):
    """From -1 to 1 where bounds differ; each task is given its own numbers, and what is equal stays as it is."""
    pull_env.register(monkeypatch)
    pulls = [Task("Pull-v0", {"low": [low, 0.0], "high": [high, 3.0]}) for low, high in ((-2.0, 2.0), (0.0, 1000.0))]
    with closing(envs.make(mixture(pulls), 2, 0)) as env:
        assert (env.action_schema.low, env.action_schema.high) == ((-1.0, 0.0), (1.0, 3.0))
        env.reset()
        pull_env.Pull.taken.clear()
        env.step(np.array([[-1.0, 0.5], [-1.0, 0.5]], np.float32))
        env.step(np.array([[0.5, 3.0], [0.5, 3.0]], np.float32))
        given = np.array(pull_env.Pull.taken)
    np.testing.assert_allclose(given, [[-2.0, 0.5], [0.0, 0.5], [1.0, 3.0], [750.0, 3.0]])
    same = [Task("Pull-v0", {"low": [-2.0, 0.0], "high": [2.0, 3.0], "unit": unit}) for unit in (1.0, 2.0)]
    assert envs.schemas(mixture(same)).action == envs.schemas(same[0]).action
    open_alike = [Task("Pull-v0", {"low": [-np.inf, 0.0], "high": [np.inf, high]}) for high in (1.0, 4.0)]
    with closing(envs.make(mixture(open_alike), 2, 0)) as env:
        env.reset()
        pull_env.Pull.taken.clear()
        env.step(np.array([[-7.0, 1.0], [7.0, 1.0]], np.float32))
    np.testing.assert_array_equal(np.array(pull_env.Pull.taken), [[-7.0, 1.0], [7.0, 4.0]])
    endless = Task("Pull-v0", {"low": [-np.inf, 0.0], "high": [2.0, 3.0]})
    with pytest.raises(GraftError, match=r"no mixture: Pull.* from \[-2.0, 0.0\] .* from \[-inf, 0.0\]"):
        envs.schemas(mixture([pulls[0], endless]))


def test_rows_out_of_play_are_known_in_a_mixture_of_squads():
    """So that nothing is learned from them."""
    squads = [Task("Graft/Pursuit-v0", {"team": "hunters", "prey_speed": speed}) for speed in (0.5, 1.0)]
    assert envs.make(mixture(squads), 16, 0).dead_rows
    assert not envs.make(mixture(GAMES), 3, 0).dead_rows
