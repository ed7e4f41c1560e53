"""Names of EnvPool's robots, against Gymnasium's models and what both show at first."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from graft import envs
from graft.envs import Task
from graft.envs.adapters.envpool.robots import METAWORLD, ROBOTS

INSTALL = "pip install 'graft-rl[games]'"
PLAYED = ("Hopper", "Walker2d", "HalfCheetah", "Ant", "Swimmer", "InvertedPendulum")

pytestmark = pytest.mark.filterwarnings("ignore:.*float64.*", "ignore:.*out of date.*")


def need(*packages: str) -> None:
    """Skip where one is missing, without importing it: EnvPool has to find Qt loaded."""
    if any(find_spec(package) is None for package in packages):
        pytest.skip(INSTALL)


@pytest.mark.parametrize("robot", ROBOTS)
def test_names_are_gymnasiums(robot: str) -> None:
    need("mujoco")
    theirs = envs.schemas(Task(f"{robot}-v5"))
    ours = ROBOTS[robot]
    assert ours.action == theirs.action.names
    indices = tuple(f"{robot}.obs_{i}" for i in range(len(theirs.observation.names)))
    assert (ours.observation or indices) == theirs.observation.names


@pytest.mark.parametrize("robot", PLAYED)
def test_envpool_shows_the_same_in_the_same_order(robot: str) -> None:
    need("mujoco", "envpool")
    ours, theirs = (envs.make(Task(f"{prefix}{robot}-v5"), 64, 0) for prefix in ("envpool/", ""))
    assert ours.observation_schema.names == theirs.observation_schema.names
    assert ours.action_schema.names == theirs.action_schema.names
    # Positions are drawn around those of the model, whose differences tell features apart; 64 means vary by 0.02.
    np.testing.assert_allclose(ours.reset()[0].mean(axis=0), theirs.reset()[0].mean(axis=0), atol=0.08)


@pytest.mark.parametrize("robot", ["Hopper", "Walker2d", "HalfCheetah", "Ant", "Swimmer"])
def test_the_fourth_version_has_the_same_names_as_far_as_it_shows_the_same(robot: str) -> None:
    need("envpool")
    fourth, fifth = (envs.schemas(Task(f"envpool/{robot}-{v}")) for v in ("v4", "v5"))
    count = len(fourth.observation.names)
    assert fourth.observation.names == fifth.observation.names[:count]
    assert fourth.action.names == fifth.action.names
    assert not any(name.startswith(f"{robot}.") for name in fourth.observation.names)


def test_other_observations_and_models_have_no_names_of_these() -> None:
    need("envpool")
    longer = envs.schemas(Task("envpool/Hopper-v5", {"exclude_current_positions_from_observation": False}))
    assert longer.observation.names[0] == "Hopper.obs_0"
    own = envs.schemas(Task("envpool/Hopper-v5", {"xml_file": "hopper.xml"}))
    assert (own.observation.names[0], own.action.names[0]) == ("Hopper.obs_0", "Hopper.action_0")


def test_metaworld() -> None:
    need("envpool")
    env = envs.make(Task("envpool/MetaWorld/Reach-v3"), 2, 0)
    assert (env.observation_schema.names, env.action_schema.names) == METAWORLD
    named = env.observation_schema.names.index
    obs, _ = env.reset()
    before, after = obs, env.step(np.tile([1.0, 0.0, 0.0, 0.0], (2, 1)))[0]
    for _ in range(10):
        before, after = after, env.step(np.tile([1.0, 0.0, 0.0, 0.0], (2, 1)))[0]
    assert (after[:, named("hand.x")] > before[:, named("hand.x")] + 1e-3).all()
    np.testing.assert_allclose(after[:, named("previous.hand.x")], before[:, named("hand.x")], atol=1e-6)
    assert (obs[:, named("goal.x") :] == 0).all()  # hidden by default
    seen = envs.make(Task("envpool/MetaWorld/Reach-v3", {"partially_observable": False}), 2, 0).reset()[0]
    assert (seen[:, named("goal.y")] != 0).all()
