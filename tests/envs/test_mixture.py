"""Mixtures of tasks in one batch, against the tasks on their own."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs
from envs import Task
from envs.adapters.mixture import ID, mixture
from envs.errors import GraftError

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


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "tasks=None is not allowed; list two tasks"),
        ({"tasks": ["Graft/Gather-v0"]}, "list two tasks or more"),
        ({"tasks": GAMES[:1] * 2}, "Gather is listed twice"),
        ({"tasks": ["Graft/Gahter-v0", "Graft/Hunt-v0"]}, "Did you mean 'Graft/Gather-v0'"),
        ({"tasks": ["Graft/Gather-v0", "CartPole-v1"]}, "no mixture: Gather takes discrete actions .noop"),
        ({"tasks": GAMES, "show": True}, "Did you mean 'show_task'"),
        ({"tasks": GAMES, "show_task": 1}, "show_task=1 is not allowed"),
    ],
)
def test_what_cannot_be_mixed(kwargs, words):
    with pytest.raises(GraftError, match=words):
        envs.make(Task(ID, kwargs), 4, 0)


def test_observations_without_a_union_are_told_apart():
    pixels = {"id": GAMES[1], "kwargs": {"view": "pixels"}}
    with pytest.raises(GraftError, match="These observations have no union: planes"):
        envs.make(Task(ID, {"tasks": [GAMES[0], pixels]}), 4, 0)
