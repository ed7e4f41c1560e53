"""Keywords under the names that users try: understood where they are the same number, else suggested."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from support.batches import make

from graft.envs.core.keywords import ALIKE, meant
from graft.errors import GraftError


@pytest.mark.parametrize(
    ("name", "given", "attributes"),
    [
        ("Pendulum-v1", {"gravity": 3.0}, {"g": 3.0}),
        ("Pendulum-v1", {"gravity": 3.0, "m": 2.0, "l": 0.5}, {"g": 3.0, "m": 2.0, "l": 0.5}),
        ("CartPole-v1", {"g": 4.0, "force_mag": 20.0}, {"gravity": 4.0, "force_mag": 20.0}),
        ("Acrobot-v1", {"LINK_MASS_1": 2.0}, {"LINK_MASS_1": 2.0}),
    ],
)
def test_the_environment_is_the_one_with_these_attributes(name, given, attributes):
    """Played beside a plain loop."""
    batch, plain = make(name, 1, 3, **given), gym.make(name)
    for attribute, value in attributes.items():
        setattr(plain.unwrapped, attribute, value)
    obs, _ = batch.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    plain.action_space.seed(0)
    np.testing.assert_array_equal(obs[0], expected)
    for _ in range(8):
        action = plain.action_space.sample()
        expected, reward, *_ = plain.step(action)
        obs, rewards, *_ = batch.step(np.array([action]))
        np.testing.assert_array_equal(obs[0], expected)
        assert rewards[0] == reward


def test_a_constant_is_drawn_under_either_name():
    batch = make("Pendulum-v1", 8, gravity={"uniform": [2.0, 4.0]})
    _, infos = batch.reset(seed=0)
    drawn = infos["dynamics"][:, [m.name for m in batch.mechanics].index("g")]
    assert (drawn >= 2.0).all()
    assert (drawn <= 4.0).all()
    assert len(set(drawn.tolist())) == 8


@pytest.mark.parametrize(
    ("name", "given", "suggested"),
    [
        ("Pendulum-v1", "max_torque", None),
        ("CartPole-v1", "pole_mass", "masspole"),
        ("MountainCarContinuous-v0", "force", "power"),
        ("FrozenLake-v1", "slippery", "is_slippery"),
        ("CartPole-v1", "time_limit", "max_episode_steps"),
        ("Graft/Platform-v0", "g", "gravity"),
        ("Blackjack-v1", "horizon", "max_episode_steps"),
    ],
)
def test_what_is_called_otherwise_is_suggested(name, given, suggested):
    with pytest.raises(GraftError, match=f"Unknown .* of {name} '{given}'; allowed") as caught:
        make(name, **{given: 1})
    assert ("Did you mean" in str(caught.value)) == (suggested is not None)
    if suggested:
        assert str(caught.value).endswith(f"Did you mean '{suggested}'?")


def test_two_names_of_one_constant_are_refused():
    with pytest.raises(GraftError, match="'gravity' is another name of 'g'; give one of them"):
        make("Pendulum-v1", g=1.0, gravity=2.0)


def test_the_meant_name_is_found_by_group():
    assert meant("G", ["mass", "gravity"]) == "gravity"
    assert meant("pole_mass", ["masspole", "masscart"]) == "masspole"
    assert meant("unheard", ["gravity"]) is None
    assert all(len(group) == len(set(group)) > 1 for group in ALIKE)


def test_a_word_that_means_something_is_not_taken_for_one_that_only_looks_like_it():
    """`goal_velocity` is spelled like gravity, which MountainCarContinuous has no keyword for."""
    with pytest.raises(GraftError, match="Unknown keyword of MountainCarContinuous-v0 'gravity'") as caught:
        make("MountainCarContinuous-v0", 1, 0, gravity=3.0)
    assert "Did you mean" not in str(caught.value)
    with pytest.raises(GraftError, match="Did you mean 'goal_velocity'"):
        make("MountainCarContinuous-v0", 1, 0, goal_velosity=0.1)
