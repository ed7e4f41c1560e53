"""Gymnasium's MuJoCo robots: what each mechanic does to the physics, names, draws, and the unchanged robot."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats
from support.batches import make
from support.env_rollouts import action_streams, assert_equal, assert_gymnasiums, episodes, transitions

from graft.envs import GraftError

mujoco = pytest.importorskip("mujoco", reason="pip install 'graft-rl[games]'")

ROBOTS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5")


def robot(task_id: str, seed: int = 0, **kwargs: Any) -> Any:
    """The Gymnasium environment within a batch of one, reset."""
    batch = make(task_id, seed=seed, **kwargs)
    batch.reset()
    return batch._batch.envs[0].unwrapped


def play(env: Any, actions: Any) -> tuple[Any, Any, Any]:
    """Observations before and after each action, rewards, and the infos' dynamics."""
    obs, infos = env.reset()
    seen, rewards, dynamics = [obs], [], [infos["dynamics"]]
    for action in actions:
        obs, reward, _, _, infos = env.step(np.broadcast_to(action, env.action_space.shape))
        seen.append(obs)
        rewards.append(reward)
        dynamics.append(infos["dynamics"])
    return np.array(seen), np.array(rewards), np.array(dynamics)


# The unchanged robot


@pytest.mark.parametrize("task_id", ROBOTS)
def test_the_unchanged_robot_is_gymnasiums_bit_for_bit(task_id: str) -> None:
    assert_gymnasiums(make(task_id, seed=3), task_id)


# Names


@pytest.mark.parametrize("task_id", ROBOTS)
def test_names_agree_with_gymnasiums_documentation(task_id: str) -> None:
    """The table of each robot lists a feature's index, what it is, and the joint."""
    names = make(task_id).observation_schema.names
    documentation = gym.spec(task_id).entry_point
    assert isinstance(documentation, str)
    module, _, name = documentation.partition(":")
    text = getattr(__import__(module, fromlist=[name]), name).__doc__.partition("## Observation Space")[2]
    rows = re.findall(r"\| +(\d+) +\| (.+?) +\|[^|]*\|[^|]*\| (\w+)[^|]*\| (hinge|slide|free) ", text)
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    assert len(rows) >= 11
    for index, what, joint, _ in rows:
        found = names[int(index)]
        moving = "velocity" in what or int(index) >= names.index("torso.velocity_x")
        if joint.startswith("root"):
            assert found.startswith("torso.")
            axis = re.search(r"([xyzw])-(coordinate|orientation)", what)
            if axis:  # the planar robots' only angle has none
                assert found.removesuffix("_offset").endswith(axis[1])
            assert ("spin" in found or "angle" in found or "quat" in found) == ("ang" in what or "orient" in what)
            assert ("velocity" in found or "spin" in found) == moving
        else:
            assert found == f"{joint}.{'velocity' if moving else 'angle'}"


@pytest.mark.parametrize("task_id", ROBOTS)
@pytest.mark.parametrize("hidden", [True, False])
def test_named_features_are_what_the_simulator_calls_so(task_id: str, hidden: bool) -> None:
    batch = make(task_id, exclude_current_positions_from_observation=hidden)
    fastest = 10 if task_id in ("Hopper-v5", "Walker2d-v5") else np.inf
    env, names = batch._batch.envs[0].unwrapped, batch.observation_schema.names
    batch.reset()
    obs = batch.step(batch.action_space.sample())[0][0]
    shown = dict(zip(names, obs, strict=True))
    assert ("torso.x" in shown) == (not hidden)
    for i in range(env.model.njnt):
        joint = env.model.joint(i)
        if not joint.name.startswith("root"):
            state = env.data.joint(joint.name)
            assert shown[f"{joint.name}.angle"] == np.float32(state.qpos[0])
            assert shown[f"{joint.name}.velocity"] == np.float32(np.clip(state.qvel[0], -fastest, fastest))
    mujoco.mj_kinematics(env.model, env.data)  # a step leaves bodies where they were before it
    height = float(env.data.body("torso").xpos[2])
    if task_id == "HalfCheetah-v5":
        assert shown["torso.z_offset"] == pytest.approx(height - 0.7, abs=1e-5)
    else:
        assert shown["torso.z"] == pytest.approx(height, abs=1e-5)
    if task_id == "Ant-v5":
        force = np.clip(env.data.body("front_left_leg").cfrc_ext, -1, 1)
        found = [shown[f"front_left_leg.contact_{what}"] for what in ("torque_x", "torque_y", "torque_z", "force_x")]
        np.testing.assert_array_equal(found, np.float32(force[:4]))
        assert len(names) == len(batch.observation_schema.low) == 105 + 2 * (not hidden)


def test_actions_are_called_by_their_joints() -> None:
    assert make("Hopper-v5").action_schema.names == ("thigh_joint", "leg_joint", "foot_joint")
    assert make("HalfCheetah-v5").action_schema.names[:2] == ("bthigh", "bshin")
    assert make("Swimmer-v5").observation_schema.names[1:3] == ("motor1_rot.angle", "motor2_rot.angle")


def test_a_robot_whose_observation_is_made_otherwise_has_index_names() -> None:
    assert make("Reacher-v5").observation_schema.names[0] == "Reacher.obs_0"


# What each mechanic does


def mass_matrix(env: Any) -> Any:
    full = np.zeros((env.model.nv, env.model.nv))
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_fullM(env.model, env.data, full)
    return full - np.diag(env.model.dof_armature)


@pytest.mark.parametrize("task_id", ROBOTS)
def test_mass_scales_masses_inertias_and_the_mass_matrix(task_id: str) -> None:
    one, two = robot(task_id), robot(task_id, mass=2)
    for name in ("body_mass", "body_inertia"):
        np.testing.assert_array_equal(getattr(two.model, name), 2 * getattr(one.model, name))
    np.testing.assert_allclose(mass_matrix(two), 2 * mass_matrix(one), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(two.model.body_subtreemass, 2 * one.model.body_subtreemass)
    np.testing.assert_array_equal(two.data.qpos, one.data.qpos)  # the state begins where it would


@pytest.mark.parametrize("task_id", ROBOTS)
def test_constants_that_follow_from_masses_are_consistent(task_id: str) -> None:
    model = robot(task_id, mass=0.5, mass_torso=3, armature=2).model
    plain = gym.make(task_id).unwrapped.model  # type: ignore[attr-defined]
    assert model.body_mass[1] == pytest.approx(1.5 * plain.body_mass[1])
    assert model.body_mass[2] == pytest.approx(0.5 * plain.body_mass[2])
    assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum())
    children = [i for i in range(1, model.nbody) if model.body_parentid[i] == 1]
    assert model.body_subtreemass[1] == pytest.approx(
        model.body_mass[1] + sum(model.body_subtreemass[child] for child in children)
    )
    data = mujoco.MjData(model)  # in the reference configuration
    mujoco.mj_forward(model, data)
    full = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, full)
    np.testing.assert_allclose(model.dof_M0, np.diag(full))
    # A rigid body's principal moments obey the triangle inequality.
    inertia = np.sort(model.body_inertia[1:], axis=1)
    assert (inertia[:, 0] + inertia[:, 1] >= inertia[:, 2] * (1 - 1e-9)).all()


def fallen(env: Any, seconds: float = 0.2) -> float:
    """How far a robot's centre of mass falls freely."""
    env.set_state(env.init_qpos + np.eye(env.model.nq)[1 if env.model.nq < 15 else 2] * 50, env.init_qvel)
    height = env.data.subtree_com[0][2]
    for _ in range(round(seconds / env.model.opt.timestep)):
        mujoco.mj_step(env.model, env.data)
    mujoco.mj_forward(env.model, env.data)
    return float(height - env.data.subtree_com[0][2])


@pytest.mark.parametrize("task_id", ["Hopper-v5", "Ant-v5"])
def test_gravity_scales_how_far_it_falls(task_id: str) -> None:
    distances = [fallen(robot(task_id, gravity=g)) for g in (1, 2, 0.165)]
    assert distances[0] == pytest.approx(0.5 * 9.81 * 0.2**2, rel=0.06)
    assert distances[1] == pytest.approx(2 * distances[0], rel=0.05)
    assert distances[2] == pytest.approx(0.165 * distances[0], rel=0.05)


def test_gain_scales_the_motors_one_or_all() -> None:
    def torques(**kwargs: Any) -> Any:
        env = robot("Hopper-v5", **kwargs)
        env.data.ctrl[:] = (0.5, -0.5, 0.25)
        mujoco.mj_forward(env.model, env.data)
        return env.data.qfrc_actuator[3:].copy()

    np.testing.assert_allclose(torques(gain=1.5), 1.5 * torques())
    np.testing.assert_allclose(torques(gain_leg_joint=0), [1, 0, 1] * torques())
    np.testing.assert_allclose(torques(gain=2, gain_foot_joint=0.5), [2, 2, 1] * torques())


def test_damping_and_armature_scale_the_joints() -> None:
    one, two = robot("HalfCheetah-v5"), robot("HalfCheetah-v5", damping=2, armature=3)
    for env in (one, two):
        env.set_state(env.init_qpos, np.ones(env.model.nv))
    np.testing.assert_allclose(two.data.qfrc_damper, 2 * one.data.qfrc_damper)
    assert one.data.qfrc_damper[3] == pytest.approx(-6.0)
    np.testing.assert_allclose(two.model.dof_M0 - one.model.dof_M0, 2 * one.model.dof_armature, atol=1e-12)


def test_friction_shortens_a_slide() -> None:
    def slide(friction: float) -> float:
        env = robot("HalfCheetah-v5", friction=friction)
        for _ in range(40):  # until it lies
            env.step(np.zeros(6))
        before = env.data.qpos[0]
        env.data.qvel[0] = 3.0
        for _ in range(20):
            env.step(np.zeros(6))
        return float(env.data.qpos[0] - before)

    ice, ground, rubber = slide(0.0), slide(1.0), slide(3.0)
    assert ice > 1.5 * ground
    assert ground > 1.5 * rubber
    assert ice == pytest.approx(3.0, rel=0.2)  # a second at 3 m/s


def test_noise_is_seen_but_does_not_happen() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (120, 6))
    clean, rewards, _ = play(make("HalfCheetah-v5", 4), actions)
    noisy, same, _ = play(make("HalfCheetah-v5", 4, noise=0.1), actions)
    np.testing.assert_array_equal(rewards, same)
    off = (noisy - clean).ravel()
    assert stats.kstest(off, stats.norm(0, 0.1).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(off[:-1], off[1:])[0]) < 0.05


def test_delayed_actions_are_those_of_before() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 6)).astype(np.float32)
    late = play(make("HalfCheetah-v5", delay=3), actions)
    by_hand = play(make("HalfCheetah-v5"), np.concatenate([np.zeros((3, 6), np.float32), actions[:-3]]))
    np.testing.assert_array_equal(late[0], by_hand[0])


def test_stuck_actions_are_those_that_happened_last(monkeypatch: pytest.MonkeyPatch) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (800, 6)).astype(np.float32)
    batch = make("HalfCheetah-v5", stuck=0.3)
    env, done = batch._batch.envs[0], []
    step = env.env.step
    monkeypatch.setattr(env.env, "step", lambda action: (done.append(action), step(action))[1])
    play(batch, actions)
    stuck = [i for i, action in enumerate(done) if (action != actions[i]).any()]
    assert 0.25 < len(stuck) / len(done) < 0.35
    for i in stuck:
        np.testing.assert_array_equal(done[i], done[i - 1] if i else np.zeros(6))
    always = play(make("HalfCheetah-v5", stuck=1), actions[:20])
    np.testing.assert_array_equal(always[0], play(make("HalfCheetah-v5"), 0 * actions[:20])[0])


# Randomisation

DRAWN: dict[str, Any] = {
    "mass": {"uniform": [0.5, 2]},
    "friction": {"log_uniform": [0.5, 2]},
    "gain_leg_joint": {"gaussian": [1, 0.2]},
    "gravity": {"uniform": [0.8, 1.2], "every": 7},
    "noise": 0.01,
    "delay": {"uniform": [0, 2]},
    "stuck": 0.1,
}


def test_draws_leave_no_trace_in_the_model() -> None:
    batch = make("Hopper-v5", mass={"log_uniform": [0.1, 10]}, damping={"uniform": [0, 10]}, max_episode_steps=2)
    plain = gym.make("Hopper-v5").unwrapped.model  # type: ignore[attr-defined]
    batch.reset()
    seen = set()
    for _ in range(300):
        infos = batch.step(np.zeros((1, 3), np.float32))[4]
        if "final_obs" in infos:
            mass, damping = (
                batch._batch.envs[0]._randomisation.values["mass"],
                batch._batch.envs[0]._randomisation.values["damping"],
            )
            seen.add(mass)
            assert infos["dynamics"][0][0] == np.float32(mass)
    model = batch._batch.envs[0].unwrapped.model
    assert len(seen) > 100
    assert 0.1 <= min(seen) < 0.2 < 5 < max(seen) <= 10
    np.testing.assert_array_equal(model.body_mass, plain.body_mass * mass)
    np.testing.assert_array_equal(model.dof_damping, plain.dof_damping * damping)


def test_draws_do_not_disturb_the_simulators_randomness() -> None:
    plain, drawn = make("Hopper-v5", 3, seed=2), make("Hopper-v5", 3, seed=2, friction={"uniform": [0.5, 2]})
    for _ in range(3):
        np.testing.assert_array_equal(plain.reset()[0], drawn.reset()[0])


def test_drawn_batches_repeat_by_seed_and_equal_batches_of_one() -> None:
    together = make("Hopper-v5", 3, seed=4, **DRAWN)
    streams = action_streams(together, 80)
    played = transitions(together, streams)
    assert episodes(played) >= 3
    for i in range(3):
        assert_equal([played[i]], transitions(make("Hopper-v5", seed=4 + i, **DRAWN), [streams[i]]))
    assert_equal(played, transitions(make("Hopper-v5", 3, seed=4, mode="NextStep", **DRAWN), streams))
    assert transitions(make("Hopper-v5", seed=9, **DRAWN), streams[:1])[0][0].obs.tolist() != played[0][0].obs.tolist()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_infos_hold_the_dynamics_of_the_step_to_come(mode: str) -> None:
    batch = make("Hopper-v5", 2, mode=mode, max_episode_steps=10, terminate_when_unhealthy=False, **DRAWN)
    names = [m.name for m in batch.mechanics]
    assert names == [
        *("mass", "friction", "damping", "armature", "gain", "gravity"),
        *("mass_torso", "mass_thigh", "mass_leg", "mass_foot"),
        *("gain_thigh_joint", "gain_leg_joint", "gain_foot_joint", "noise", "delay", "stuck"),
    ]
    *_, dynamics = play(batch, np.zeros((14, 3), np.float32))
    assert dynamics.shape == (15, 2, 16)
    of_mass, of_gravity = dynamics[:, 0, names.index("mass")], dynamics[:, 0, names.index("gravity")]
    begins = 10 if mode == "SameStep" else 11
    assert [t for t in range(1, 15) if of_mass[t] != of_mass[t - 1]] == [begins]
    assert [t for t in range(1, 15) if of_gravity[t] != of_gravity[t - 1]] == [7, begins]
    assert of_gravity[-1] == pytest.approx(batch._batch.envs[0].unwrapped.model.opt.gravity[2] / -9.81)
    assert (dynamics[:, :, names.index("noise")] == np.float32(0.01)).all()


def test_final_dynamics_are_those_of_the_episode_that_ended() -> None:
    batch = make("Hopper-v5", max_episode_steps=3, mass={"uniform": [0.5, 2]})
    before = batch.reset()[1]["dynamics"]
    for _ in range(2):
        assert "final_dynamics" not in batch.step(np.zeros((1, 3), np.float32))[4]
    infos = batch.step(np.zeros((1, 3), np.float32))[4]
    np.testing.assert_array_equal(infos["final_dynamics"], before)
    assert infos["dynamics"][0, 0] != before[0, 0]


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mass": 20}, r"Hopper-v5: mass=20 is not allowed; it is a number from 0.1 to 10 \(scale of all masses"),
        ({"mass_toros": 2}, "Unknown mechanic of Hopper-v5 'mass_toros'.*Did you mean 'mass_torso'"),
        ({"gain_hip_1": 2}, "Unknown mechanic of Hopper-v5 'gain_hip_1'"),
        ({"frction": 2}, "Unknown keyword of Hopper-v5 'frction'.*Did you mean 'friction'"),
        ({"mass": {"unifrom": [1, 2]}}, "Unknown distribution of mass of Hopper-v5.*Did you mean 'uniform'"),
        ({"delay": 1.5}, "delay=1.5 is not allowed; it is a whole number from 0 to 10"),
        ({"frame_skip": "four"}, "'Hopper-v5' does not accept frame_skip='four'"),
    ],
)
def test_what_is_not_allowed_is_said(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        make("Hopper-v5", **kwargs)


def test_a_task_of_another_name_that_begins_alike_is_not_a_robot() -> None:
    with pytest.raises(GraftError, match=r"Unknown task 'Hopper-v55'.*Did you mean 'Hopper-v5'"):
        make("Hopper-v55")


def test_faults_and_constructor_keywords_pass_through() -> None:
    batch = make("Hopper-v5", healthy_reward=5.0, faults={"limit": 0}, mass=2)
    batch.reset()
    assert batch.step(np.zeros((1, 3), np.float32))[1][0] > 4
    assert batch.faults.total == 0


def test_an_unstable_simulation_is_a_fault(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings there
    batch = make("HalfCheetah-v5", 4, mass=0.1, armature=0.1, damping=0.1, faults={"limit": 1000})
    batch.reset()
    batch.action_space.seed(0)
    while not batch.faults.total:
        obs, rewards, _, truncated, _ = batch.step(np.sign(batch.action_space.sample()))
        assert np.isfinite(obs).all()
        assert np.isfinite(rewards).all()
    assert batch.faults["not_finite"] == 1
    assert truncated.sum() == 1


def test_making_one_writes_no_log_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("HalfCheetah-v5").reset()
    assert list(tmp_path.iterdir()) == []
