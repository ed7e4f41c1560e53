"""Classic control and Box2D under other constants: one step by hand, derived constants, draws, and what is refused."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from support.batches import make
from support.env_rollouts import action_streams, assert_equal, assert_gymnasiums, transitions

from graft.envs import GraftError
from graft.envs.adapters.gymnasium.classic import TABLE
from graft.envs.builtin.engine.mechanics import Mechanic

needs_box2d = pytest.mark.skipif(find_spec("Box2D") is None, reason="Box2D is missing: pip install 'graft-rl[games]'")
CLASSIC = [name for name in TABLE if not name.startswith("Lunar")]
EVERYWHERE = [pytest.param(name, marks=() if name in CLASSIC else needs_box2d) for name in TABLE]


def at(task_id: str, state: Any, **kwargs: Any) -> Any:
    """The Gymnasium environment within a batch of one, put into ``state``."""
    batch = make(task_id, **kwargs)
    batch.reset()
    env = batch._batch.envs[0].unwrapped
    env.state = np.array(state, np.float64)
    return env


@pytest.mark.parametrize("task_id", EVERYWHERE)
def test_the_unchanged_task_is_gymnasiums_bit_for_bit(task_id: str) -> None:
    assert_gymnasiums(make(task_id, seed=3), task_id)


@pytest.mark.parametrize("task_id", EVERYWHERE)
def test_defaults_are_the_originals_constants(task_id: str) -> None:
    plain, env = gym.make(task_id).unwrapped, make(task_id)._batch.envs[0].unwrapped
    for name, value in vars(env).items():
        if isinstance(value, float) and not name.startswith("_"):
            assert getattr(plain, name) == value


def at_ends(task_id: str, mechanic: Mechanic) -> list[Any]:
    return [pytest.param(task_id, mechanic, end) for end in (mechanic.low, mechanic.high)]


@pytest.mark.parametrize(
    ("task_id", "mechanic", "value"),
    [case for task_id in CLASSIC for mechanic in TABLE[task_id].mechanics for case in at_ends(task_id, mechanic)],
)
def test_every_end_of_every_range_can_be_played(task_id: str, mechanic: Mechanic, value: float) -> None:
    batch = make(task_id, 2, **{mechanic.name: value})
    batch.reset()
    batch.action_space.seed(0)
    for _ in range(20):
        obs, *_, infos = batch.step(batch.action_space.sample())
        assert all(batch.single_observation_space.contains(row) for row in obs)
    assert batch.faults.total == 0
    place = [m.name for m in batch.mechanics].index(mechanic.name)
    np.testing.assert_array_equal(infos["dynamics"][:, place], np.float32(value))


def test_a_cartpoles_step_is_that_of_its_constants() -> None:
    """Barto, Sutton and Anderson's equations, as Florian (2007) has them without friction."""
    x, v, theta, omega = state = (0.1, 0.2, 0.05, -0.3)
    half, pole, cart, g, push = 1.5, 0.4, 2.0, 5.0, 20.0
    env = at("CartPole-v1", state, length=half, masspole=pole, masscart=cart, gravity=g, force=push)
    found = env.step(1)[0]
    sin, cos, total = math.sin(theta), math.cos(theta), pole + cart
    inner = (-push - pole * half * omega**2 * sin) / total
    turning = (g * sin + cos * inner) / (half * (4 / 3 - pole * cos**2 / total))
    moving = (push + pole * half * (omega**2 * sin - turning * cos)) / total
    expected = (x + 0.02 * v, v + 0.02 * moving, theta + 0.02 * omega, omega + 0.02 * turning)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_longer_pole_falls_more_slowly() -> None:
    def steps(**kwargs: Any) -> int:
        env = at("CartPole-v1", (0, 0, 0.05, 0), force=0.0, **kwargs)
        return next(t for t in range(1000) if env.step(0)[2])

    assert steps(length=2.0) > steps() > steps(length=0.1)
    assert steps(gravity=2.0) > steps() > steps(gravity=30.0)


def test_acrobats_swing_by_the_lengths_and_masses_of_their_links() -> None:
    def swing(**kwargs: Any) -> float:
        """The angular velocity of the upper link after a step without torque."""
        return float(at("Acrobot-v1", (0.3, 0.0, 0.0, 0.0), **kwargs).step(1)[0][4])

    assert abs(swing(inertia=5.0)) < abs(swing())  # harder to turn
    assert abs(swing(mass_1=5.0, mass_2=5.0)) > abs(swing())  # the same inertia, a greater weight
    env = at("Acrobot-v1", (0, 0, 0, 0), length_1=2.0, length_2=0.5)
    assert (env.LINK_COM_POS_1, env.LINK_COM_POS_2) == (1.0, 0.25)
    assert (type(env).LINK_LENGTH_1, type(env).LINK_COM_POS_1) == (1.0, 0.5)  # others stay as they are


def test_a_pendulum_turns_by_its_gravity_length_and_mass() -> None:
    for g, length, mass in ((10, 1, 1), (5, 1, 1), (10, 2, 0.5)):
        env = at("Pendulum-v1", (math.pi / 2, 0.0), g=g, length=length, mass=mass)
        speed = env.step(np.array([0.5]))[0][2]
        assert speed == pytest.approx(0.05 * (3 * g / (2 * length) + 3 * 0.5 / (mass * length**2)), rel=1e-5)


def test_a_mountain_car_rolls_by_its_gravity_and_engine() -> None:
    env = at("MountainCar-v0", (-0.3, 0.0), gravity=0.005, force=0.002)
    assert env.step(2)[0][1] == pytest.approx(0.002 - 0.005 * math.cos(-0.9), rel=1e-5)
    env = at("MountainCarContinuous-v0", (-0.3, 0.0), power=0.003)
    assert env.step(np.array([0.5]))[0][1] == pytest.approx(0.0015 - 0.0025 * math.cos(-0.9), rel=1e-4)


@needs_box2d
def test_a_lander_falls_by_its_gravity() -> None:
    def falls(**kwargs: Any) -> float:
        batch = make("LunarLander-v3", 4, **kwargs)
        before = batch.reset()[0][:, 3]
        for _ in range(10):
            obs = batch.step(np.zeros(4, np.int64))[0]
        return float((before - obs[:, 3]).mean())

    assert falls(gravity=-5.0) == pytest.approx(falls() / 2, rel=0.02)
    drawn = make("LunarLander-v3", gravity={"uniform": [-11, -2], "every": 5})
    drawn.reset()
    for _ in range(20):
        infos = drawn.step(np.zeros(1, np.int64))[4]
        assert drawn._batch.envs[0].unwrapped.world.gravity[1] == pytest.approx(float(infos["dynamics"][0, 0]))


@needs_box2d
def test_wind_pushes_a_lander_only_where_it_blows() -> None:
    def drift(**kwargs: Any) -> Any:
        batch = make("LunarLander-v3", 3, **kwargs)
        batch.reset()
        for _ in range(20):
            obs = batch.step(np.zeros(3, np.int64))[0]
        return obs[:, 2]

    np.testing.assert_array_equal(drift(wind_power=5.0), drift())
    assert not np.array_equal(drift(enable_wind=True, wind_power=5.0), drift(enable_wind=True, wind_power=20.0))


def test_a_missing_box2d_is_named_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("gymnasium.envs.box2d", "Box2D"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    line = r"'LunarLander-v3' needs a package that is not installed; install it: `pip install 'graft-rl\[games\]'`"
    with pytest.raises(GraftError, match=line):
        make("LunarLander-v3", gravity=-5.0)


def test_draws_noise_delay_and_stuck_repeat_by_seed() -> None:
    options: dict[str, Any] = {"length": {"log_uniform": [0.25, 2]}, "masspole": {"gaussian": [0.1, 0.05], "every": 4}}
    options |= {"noise": 0.05, "delay": {"uniform": [0, 3]}, "stuck": 0.2}
    together = make("CartPole-v1", 3, seed=4, **options)
    streams = action_streams(together, 120)
    played = transitions(together, streams)
    for i in range(3):
        assert_equal([played[i]], transitions(make("CartPole-v1", seed=4 + i, **options), [streams[i]]))
    assert_equal(played, transitions(make("CartPole-v1", 3, seed=4, mode="NextStep", **options), streams))
    lengths = {float(env.values[0]) for env in together._batch.envs}
    assert len(lengths) == 3
    for env in together._batch.envs:
        cart = env.unwrapped
        assert cart.polemass_length == cart.masspole * cart.length
        assert cart.total_mass == cart.masspole + cart.masscart


def test_noise_stays_within_the_space() -> None:
    batch = make("Pendulum-v1", 8, noise=1.0)
    obs = batch.reset()[0]
    assert (np.abs(obs[:, :2]) <= 1).all()
    assert (np.abs(obs[:, :2]) == 1).any()


def test_before_the_first_delayed_action_a_car_idles() -> None:
    late, plain = make("MountainCar-v0", delay=2), make("MountainCar-v0")
    late.reset()
    plain.reset()
    for chosen, happens in ((0, 1), (0, 1), (2, 0), (2, 0), (1, 2)):
        np.testing.assert_array_equal(late.step(np.array([chosen]))[0], plain.step(np.array([happens]))[0])


@pytest.mark.parametrize(
    ("task_id", "kwargs", "message"),
    [
        ("CartPole-v1", {"lenght": 1}, "Unknown keyword of CartPole-v1 'lenght'.*Did you mean 'length'"),
        ("CartPole-v1", {"length": 0}, r"CartPole-v1: length=0 is not allowed; it is a number from 0.05 to 5 \(half"),
        ("CartPole-v1", {"delay": {"uniform": [0, 11]}}, "delay is within 0 to 10"),
        ("Acrobot-v1", {"gravity": 5}, "Unknown keyword of Acrobot-v1 'gravity'"),
        ("MountainCar-v0", {"force": True}, "force=True is not allowed"),
    ],
)
def test_what_is_not_allowed_is_said(task_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        make(task_id, **kwargs)
