"""Episodes of a patch check: predicates beside a plain loop, and what the final network has on the old build."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from support.patched_env import AGENT, LENGTH, PATCHED
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.patch import Predicate, Scenario
from graft.experiments.patching.check import level_of, on_old_build, share_of
from graft.experiments.patching.infos import _number
from graft.experiments.patching.play import check_predicate, played, scenario_task

ID = "support.patched_env:Sides-v0"
TASK = Task(ID, AGENT)
EPISODES, SEED = 24, 5


@pytest.fixture(scope="module")
def network():
    return small_network(schemas(TASK))


def sides():
    """The side of each episode, of environments that are made and seeded one by one."""
    found = []
    for i in range(EPISODES):
        env = gym.make(ID)
        found.append(env.reset(seed=SEED + i)[0][0])
    return np.array(found)


def share(network, task=TASK, **keys):
    predicate = Predicate.model_validate({"is": keys.pop("compare"), **keys})
    held = played(network, task, EPISODES, SEED, predicate=predicate)[1]
    assert held is not None
    assert len(held) == EPISODES
    return held.mean()


@pytest.mark.parametrize("of", ["observation", "info"])
def test_shares_are_those_of_a_plain_loop(of, network):
    right = (sides() > 0).mean()
    assert 0 < right < 1
    told = {"of": of, "name": "side", "compare": ">", "value": 0}
    for when in ("always", "ever", "end"):
        assert share(network, **told, when=when) == right
    # Time is 0 before the first step, so it is not above 0.1 in every state; infos tell it from 1 on.
    time = {"of": of, "name": "time", "compare": ">", "value": 0.1}
    assert share(network, **time, when="always") == (of == "info")
    assert share(network, **time, when="ever") == share(network, **time, when="end") == 1
    last = {"observation": 1, "info": LENGTH}[of]
    assert share(network, **{**time, "compare": "==", "value": last}, when="end") == 1
    assert share(network, **{**time, "compare": "<", "value": last}, when="always") == 0


def test_returns_and_lengths_are_of_whole_episodes(network):
    paid = Task(ID, {"pay": 0.0, "right": 1.0, **AGENT})
    episodes, held = played(
        network, paid, EPISODES, SEED, predicate=Predicate.model_validate({"of": "return", "is": ">=", "value": 2})
    )
    assert held is not None
    assert held.tolist() == (episodes.returns >= 2).tolist()
    assert 0 < held.mean() < 1
    assert share(network, of="length", compare="==", value=LENGTH) == 1


def test_infos_without_the_key_are_an_error(network):
    with pytest.raises(GraftError, match="No info had a number under 'word'"):
        share(network, of="info", name="word", compare="==", value=1)
    # "found" is told from the second step on, and not in the last.
    some = {"of": "info", "name": "found", "compare": "==", "value": 1}
    assert share(network, **some, when="ever") == 1
    for when in ("always", "end"):
        with pytest.raises(GraftError, match=f"{2 * EPISODES if when == 'always' else EPISODES} infos had no number"):
            share(network, **some, when=when)
    told = Predicate.model_validate({"of": "info", "name": "side", "is": ">", "value": 0})
    with pytest.raises(GraftError, match="has no infos"):
        check_predicate(told, Task("Graft/Dodge-v0"))


def test_infos_are_numbers_or_nothing():
    for value, number in ((3, 3), (True, 1), (np.float32(0.5), 0.5), (np.bool_(True), 1), (np.array(2), 2)):
        assert _number(value) == number
    assert (_number(10**400), _number(-(10**400))) == (np.inf, -np.inf)
    for value in ("3", "nan", None, np.array([1.0]), np.array("3"), 1j):
        assert np.isnan(_number(value))


def test_a_name_of_planes_is_the_largest_of_their_cells():
    task = Task("Graft/Dodge-v0", {"view": "planes"})
    network = small_network(schemas(task))
    names = schemas(task).observation.names
    seen = {"of": "observation", "compare": "==", "value": 1, "when": "always"}
    assert share(network, task, name=names[0], **seen) == 1  # the player is always somewhere
    other = Scenario.model_validate({"name": "a", "kwargs": {"view": "ego"}, "min": 0})
    with pytest.raises(GraftError, match="kwargs change what Dodge"):
        scenario_task(other, task, task)


def test_what_a_trained_network_does_on_the_old_build():
    """Its logits of the actions that the old build takes, with zero for what that does not show."""
    new = Task(PATCHED["id"], {**PATCHED["kwargs"], "schema": PATCHED["schema"]})
    trained = small_network(schemas(new), seed=3)
    old = on_old_build(Checkpoint.of(trained, new), TASK)
    assert not isinstance(old, str)
    obs = torch.rand(7, 3)
    obs[:, 2] = 0
    assert old.schemas.action.names == ("left", "right")
    assert torch.allclose(old(obs).action, trained(obs).action[:, :2])
    other = Task(ID, {"schema": {"observation": ["side", "clock"], "action": ["left", "right"]}})
    assert on_old_build(Checkpoint.of(trained, new), other) == "other inputs"
    turned = Task(ID, {"schema": {"observation": ["side", "time"], "action": ["left", "fly"]}})
    assert on_old_build(Checkpoint.of(trained, new), turned) == "other actions"


@pytest.mark.parametrize(
    ("score", "old", "share"), [(8, 10, 0.8), (-11, -10, 0.9), (-10, -10, 1), (0, -10, 2), (5, 0, None)]
)
def test_shares_of_an_old_score(score, old, share):
    assert share_of(score, old) == (None if share is None else pytest.approx(share))
    if share is not None:
        assert level_of(share, old) == pytest.approx(score)
