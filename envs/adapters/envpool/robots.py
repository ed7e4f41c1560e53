"""Names of EnvPool's robots, MuJoCo's and MetaWorld's arm; its models cannot be read, so the joints are listed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.envs.adapters.names import Names

_AXES = "xyz"
_LEG = ("thigh_joint", "leg_joint", "foot_joint")
_LEFT_LEG = ("thigh_left_joint", "leg_left_joint", "foot_left_joint")
_CHEETAH = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
_ANT = tuple(f"{joint}_{i}" for i in (1, 2, 3, 4) for joint in ("hip", "ankle"))
_ANT_BODIES = (
    "torso",
    *(
        body
        for i, leg in enumerate(("front_left_leg", "front_right_leg", "back_leg", "right_back_leg"), 1)
        for body in (leg, f"aux_{i}", f"ankle_{i}")
    ),
)
_HUMANOID = (
    *("abdomen_y", "abdomen_z", "abdomen_x"),
    *(f"{side}_{joint}" for side in ("right", "left") for joint in ("hip_x", "hip_z", "hip_y", "knee")),
    *(f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder1", "shoulder2", "elbow")),
)
_ARM = ("shoulder_pan", "shoulder_lift", "upper_arm_roll", "elbow_flex", "forearm_roll", "wrist_flex", "wrist_roll")
_PUSHER = tuple(f"r_{joint}_joint" for joint in _ARM)
_QUATERNION = tuple(f"torso.quaternion_{part}" for part in "wxyz")


def _of(positions: tuple[str, ...], velocities: tuple[str, ...], joints: tuple[str, ...]) -> tuple[str, ...]:
    angles, speeds = (tuple(f"{joint}.{what}" for joint in joints) for what in ("angle", "velocity"))
    return (*positions, *angles, *velocities, *speeds)


def _planar(height: str, joints: tuple[str, ...]) -> Names:
    moves = ("torso.velocity_x", "torso.velocity_z", "torso.angle_velocity_y")
    return Names(_of((height, "torso.angle_y"), moves, joints), joints)


_ANT_MOVES = _of(
    ("torso.z", *_QUATERNION), tuple(f"torso.{kind}_{axis}" for kind in ("velocity", "spin") for axis in _AXES), _ANT
)
_ANT_FORCES = tuple(
    f"{body}.contact_{kind}_{axis}" for body in _ANT_BODIES for kind in ("torque", "force") for axis in _AXES
)
_SWIMMER = ("motor1_rot", "motor2_rot")

ROBOTS = {
    "Hopper": _planar("torso.z", _LEG),
    "Walker2d": _planar("torso.z", _LEG + _LEFT_LEG),
    "HalfCheetah": _planar("torso.z_offset", _CHEETAH),
    "Swimmer": Names(
        _of(("torso.angle_z",), ("torso.velocity_x", "torso.velocity_y", "torso.angle_velocity_z"), _SWIMMER), _SWIMMER
    ),
    "Ant": Names(_ANT_MOVES + _ANT_FORCES, _ANT[-2:] + _ANT[:-2]),
    "InvertedPendulum": Names(("cart.x", "hinge.angle", "cart.velocity_x", "hinge.velocity"), ("slider",)),
    "InvertedDoublePendulum": Names(None, ("slider",)),
    "Reacher": Names(None, ("joint0", "joint1")),
    "Pusher": Names(None, _PUSHER),
    "Humanoid": Names(None, _HUMANOID),
    "HumanoidStandup": Names(None, _HUMANOID),
}
"""By the name without its version, as Gymnasium's fifth versions show them."""

_BODY = (
    *(f"hand.{axis}" for axis in _AXES),
    "gripper.opening",
    *(
        f"object_{i}.{part}"
        for i in (1, 2)
        for part in (*_AXES, *(f"quaternion_{k}" for k in range(4)))  # their order differs between tasks
    ),
)
METAWORLD = Names(
    (*_BODY, *(f"previous.{name}" for name in _BODY), *(f"goal.{axis}" for axis in _AXES)),
    (*(f"hand.move_{axis}" for axis in _AXES), "gripper.force"),
)
"""Now, a step ago, and the goal, which is zero where it is not to be seen (``partially_observable``)."""


def robot_names(name: str, kwargs: Mapping[str, Any], features: int) -> Names:
    """Names of EnvPool's robot ``name``, whose observations have ``features`` numbers; None for what has none.

    Ant's fourth version shows contacts only if asked to, and then the world's, too.
    """
    if name.startswith("MetaWorld/"):
        return METAWORLD
    robot, _, version = name.rpartition("-")
    if version not in ("v4", "v5") or "xml_file" in kwargs:
        return Names()
    found = ROBOTS.get(robot, Names())
    return Names(_ANT_MOVES, found.action) if robot == "Ant" and features == len(_ANT_MOVES) else found
