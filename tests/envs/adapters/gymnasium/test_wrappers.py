"""Wrappers that a task names: what is shown and paid is that of a plain loop around the same wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from support.own_wrappers import Chosen, Fined, halved

from graft import envs
from graft.envs import GraftError, Task
from graft.experiments.config.experiment import SourceConfig, TaskConfig, load_config

STACK = {"FrameStackObservation": {"stack_size": 3}}


def by_hand(env: gym.Env[Any, Any], actions: list[int], seed: int) -> tuple[list[Any], list[float], list[bool]]:
    """Observations, rewards and ends of a plain loop, flat; the last observation of an episode is left out."""
    shown, rewards, ends = [np.ravel(env.reset(seed=seed)[0])], [], []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
        shown.append(np.ravel(obs))
        rewards.append(float(reward))
        ends.append(bool(terminated or truncated))
    return shown, rewards, ends


def in_batch(task: Task, actions: list[int], seed: int) -> tuple[list[Any], list[float], list[bool]]:
    env = envs.make(task, 1, seed)
    shown, rewards, ends = [env.reset()[0][0].ravel()], [], []
    for action in actions:
        obs, paid, terminated, truncated, _ = env.step(np.array([action]))
        shown.append(obs[0].ravel())
        rewards.append(float(paid[0]))
        ends.append(bool(terminated[0] or truncated[0]))
    env.close()
    return shown, rewards, ends


PLAIN = {
    "a stack, then a limit": (
        "CartPole-v1",
        [STACK, {"TimeLimit": {"max_episode_steps": 6}}],
        lambda env: gym.wrappers.TimeLimit(gym.wrappers.FrameStackObservation(env, 3), 6),
    ),
    "my own": (
        "CartPole-v1",
        [
            {"support.own_wrappers:Chosen": {"places": [2, 0], "scale": [2.0, -1.0]}},
            {"support.own_wrappers.Fined": {"fines": [0.25, 0.5]}},
            {"TransformReward": {"func": "support.own_wrappers:halved"}},
        ],
        lambda env: gym.wrappers.TransformReward(
            Fined(Chosen(env, (2, 0), np.array([2.0, -1.0])), [0.25, 0.5]), halved
        ),
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_they_play_as_in_a_plain_loop(case: str) -> None:
    task_id, wrappers, wrap = PLAIN[case]
    actions = np.random.default_rng(1).integers(0, 2, 80).tolist()
    plain = by_hand(wrap(gym.make(task_id)), actions, 7)
    found = in_batch(Task(task_id, {"wrappers": wrappers}), actions, 7)
    assert np.array_equal(np.array(plain[0], np.float32), np.array(found[0]))
    assert plain[1:] == found[1:]
    assert sum(found[2]) > 1


def names_of(task_id: str, *wrappers: Any) -> tuple[str, ...]:
    return envs.schemas(Task(task_id, {"wrappers": list(wrappers)})).observation.names


def test_names_pass_through_them() -> None:
    assert names_of("CartPole-v1", STACK)[3:5] == ("frame_0:pole_velocity", "frame_1:cart_position")
    own = {"support.own_wrappers:Chosen": {"places": [3, 1], "scale": [1, 1]}}
    assert names_of("CartPole-v1", own) == ("chosen_3", "chosen_1")
    grid = "minigrid:MiniGrid-Empty-5x5-v0"
    assert names_of(grid, "minigrid.wrappers:ImgObsWrapper") == names_of(grid)


def test_stacked_grey_pictures_are_frames_and_no_colours() -> None:
    pytest.importorskip("Box2D")
    assert names_of("CarRacing-v3", "GrayscaleObservation", STACK) == ("frame_0", "frame_1", "frame_2")


def test_scores_need_the_rewards_of_the_task() -> None:
    def scale(*wrappers: Any) -> Any:
        return envs.bounds(Task("CartPole-v1", {"wrappers": list(wrappers)}))

    assert scale() is not None
    assert scale(STACK) == scale()
    assert scale({"support.own_wrappers:Chosen": {"places": [0], "scale": [1]}}) == scale()
    assert scale({"support.own_wrappers:Fined": {"fines": [1]}}) is None
    assert scale({"ClipReward": {"max_reward": 1}}) is None


REFUSALS = [
    ("FrameStack", "Unknown wrapper of CartPole-v1 'FrameStack'.*Did you mean 'FrameStackObservation'"),
    ({"FrameStackObservation": {"stack_sise": 4}}, "Did you mean 'stack_size'"),
    ("FrameStackObservation", "needs stack_size; give wrappers: .*FrameStackObservation: {stack_size: ...}"),
    ({"FrameStackObservation": {"stack_size": -1}}, "cannot wrap task 'CartPole-v1' with stack_size=-1"),
    ("NormalizeReward", "can't be used: its statistics would be others.*reward_scale"),
    ("gymnasium.wrappers:NormalizeObservation", "can't be used: its statistics.*normalise"),
    ("Autoreset", "can't be used: environments are reset here"),
    ("nowhere.at_all:Wrapper", "Module 'nowhere.at_all' of wrapper .*PYTHONPATH"),
    ("support.own_wrappers:Chosn", "Did you mean 'Chosen'"),
    ("support.own_wrappers:no_env", "gives no gymnasium.Env"),
    (3, "3 is not allowed; give names"),
    ({"TimeLimit": 3}, "is not allowed; give names"),
]


@pytest.mark.parametrize(("given", "message"), REFUSALS)
def test_what_is_wrong_is_said_in_a_sentence(given: Any, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        envs.make(Task("CartPole-v1", {"wrappers": [given]}), 1, 0)


@pytest.mark.parametrize("task_id", ["Graft/Gather-v0", "pettingzoo:mpe2.simple_spread_v3"])
def test_tasks_of_other_makers_have_none(task_id: str) -> None:
    with pytest.raises(GraftError, match=f"wrappers of {task_id}: those are for environments of gymnasium.make only"):
        envs.make(Task(task_id, {"wrappers": ["TimeAwareObservation"]}), 1, 0)


def test_a_config_names_them_beside_the_id() -> None:
    target = TaskConfig(id="CartPole-v1", wrappers=STACK, kwargs={"gravity": 5}, recall={"id": "CartPole-v1"})
    assert target.task == Task("CartPole-v1", {"gravity": 5, "wrappers": [STACK]})
    assert target.recalled == Task("CartPole-v1", {"wrappers": [STACK]})
    assert TaskConfig(id="CartPole-v1").task.kwargs == {}, "ids of stages without wrappers stay"
    with pytest.raises(ValueError, match="either a task"):
        SourceConfig(checkpoint="somewhere", wrappers=["TimeAwareObservation"])


def test_a_target_named_like_its_source_has_the_sources_wrappers(tmp_path: Any) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: x\nmethods: [finetune]\n"
        "sources: {id: CartPole-v1, wrappers: [{FrameStackObservation: {stack_size: 2}}]}\n"
        "targets: {id: Acrobot-v1, wrappers: [FlattenObservation], schema: {as: source}}\n"
    )
    target = load_config(str(tmp_path / "x.yaml")).targets[0].task  # type: ignore[union-attr]
    source = target.kwargs["schema"]["as"]
    assert source == {"id": "CartPole-v1", "kwargs": {"wrappers": [{"FrameStackObservation": {"stack_size": 2}}]}}


@pytest.mark.slow
def test_processes_make_them_too() -> None:
    own = {"support.own_wrappers:Chosen": {"places": [2, 0], "scale": [2.0, -1.0]}}
    shown = []
    for workers in (1, 2):
        env = envs.make(Task("CartPole-v1", {"wrappers": [own, STACK]}), 2, 3, workers=workers)
        env.reset()
        shown.append([env.step(np.array([0, 1]))[0] for _ in range(5)])
        env.close()
    assert np.array_equal(*shown)
