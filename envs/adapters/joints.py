"""Names of the observations and actions of MuJoCo's robots, from their models: joints, bodies and actuators.

Gymnasium's robots describe observations with ``observation_structure``; None where that or a name is missing.
"""

from __future__ import annotations

from typing import Any

from graft.envs.adapters.names import Names

_FREE, _BALL, _SLIDE, _HINGE = range(4)
_AXES = "xyz"
_PER_BODY = {
    "cinert": tuple(f"inertia_{k}" for k in range(10)),
    "cvel": tuple(f"{kind}_{axis}" for kind in ("spin", "velocity") for axis in _AXES),
    "cfrc_ext": tuple(f"contact_{kind}_{axis}" for kind in ("torque", "force") for axis in _AXES),
}
"""What is shown of each body but the world; MuJoCo puts rotation before translation."""


def model_names(env: Any) -> Names:
    """Names of the observations and actions of ``env``, an unwrapped environment; None for what has no names."""
    model = getattr(env, "model", None)
    if model is None or not hasattr(model, "actuator_trntype"):
        return Names()
    structure = getattr(env, "observation_structure", None)
    return Names(observation_names(model, structure) if structure else None, actuator_names(model))


def actuator_names(model: Any) -> tuple[str, ...] | None:
    """The joint that each actuator moves; None where one has another transmission (type 0 is a joint)."""
    if model.actuator_trntype.any():
        return None
    return _distinct([str(model.joint(int(joint)).name) for joint in model.actuator_trnid[:, 0]])


def body_names(model: Any) -> tuple[str, ...] | None:
    """Of all bodies but the world; one without a name has that of its joint."""
    found = []
    for body in range(1, model.nbody):
        first = int(model.body_jntadr[body])
        found.append(str(model.body(body).name or (model.joint(first).name if first >= 0 else "")))
    return _distinct(found)


def observation_names(model: Any, structure: dict[str, int]) -> tuple[str, ...] | None:
    """One name per feature, in the order of Gymnasium's robots: positions, velocities, and parts of bodies.

    ``torso.z`` is a height above the ground, ``torso.z_offset`` one above where the body began.
    """
    joints, bodies = range(model.njnt), body_names(model)
    if bodies is None:
        return None
    positions = [name for joint in joints for name in _position(model, joint, bodies)]
    velocities = [name for joint in joints for name in _velocity(model, joint, bodies)]
    found: list[str] = []
    for part, count in structure.items():
        if part == "skipped_qpos":
            positions = positions[count:]
        elif part == "qpos":
            found += positions
        elif part == "qvel":
            found += velocities
        elif part == "qfrc_actuator":  # the first joint of those that show it moves freely
            found += [name.replace("velocity", "actuator_force") for name in velocities[6:]]
        elif part in _PER_BODY:
            found += [f"{body}.{what}" for body in bodies for what in _PER_BODY[part]]
        else:
            return None
    total = sum(count for part, count in structure.items() if part != "skipped_qpos")
    return _distinct(found) if len(found) == total else None


def _distinct(names: list[str]) -> tuple[str, ...] | None:
    return tuple(names) if all(names) and len(set(names)) == len(names) else None


def _rooted(model: Any, joint: int) -> tuple[str, int] | None:
    """Sign and axis of a joint by which a body moves against the world along or about an axis; None for others."""
    if model.body_parentid[int(model.jnt_bodyid[joint])] != 0:
        return None
    for k, part in enumerate(model.jnt_axis[joint].tolist()):
        if abs(part) == 1.0:
            return ("" if part > 0 else "minus_"), k
    return None


def _position(model: Any, joint: int, bodies: tuple[str, ...]) -> list[str]:
    kind, body = int(model.jnt_type[joint]), int(model.jnt_bodyid[joint])
    owner, name = bodies[body - 1], str(model.joint(joint).name)
    if kind == _FREE:
        return [f"{owner}.{axis}" for axis in _AXES] + [f"{owner}.quaternion_{part}" for part in "wxyz"]
    if kind == _BALL:
        return [f"{name}.quaternion_{part}" for part in "wxyz"]
    root = _rooted(model, joint)
    if root is None:
        return [f"{name}.{'position' if kind == _SLIDE else 'angle'}"]
    sign, axis = root
    if kind == _HINGE:
        return [f"{owner}.angle_{sign}{_AXES[axis]}"]
    # MuJoCo puts the body at its place in the model when the joint is at its reference.
    absolute = not sign and float(model.body_pos[body][axis]) == float(model.qpos0[model.jnt_qposadr[joint]])
    return [f"{owner}.{sign}{_AXES[axis]}{'' if absolute else '_offset'}"]


def _velocity(model: Any, joint: int, bodies: tuple[str, ...]) -> list[str]:
    kind, body = int(model.jnt_type[joint]), int(model.jnt_bodyid[joint])
    owner, name = bodies[body - 1], str(model.joint(joint).name)
    if kind == _FREE:  # along the world's axes, about the body's own
        return [f"{owner}.velocity_{axis}" for axis in _AXES] + [f"{owner}.spin_{axis}" for axis in _AXES]
    if kind == _BALL:
        return [f"{name}.spin_{axis}" for axis in _AXES]
    root = _rooted(model, joint)
    if root is None:
        return [f"{name}.velocity"]
    sign, axis = root
    return [f"{owner}.{'velocity' if kind == _SLIDE else 'angle_velocity'}_{sign}{_AXES[axis]}"]
