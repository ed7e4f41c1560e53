"""Gymnasium's MuJoCo robots, whose dynamics are mechanics: ``Hopper-v5`` with ``mass=1.5`` or ``gain_foot_joint=0.5``.

All but ``noise``, ``delay`` and ``stuck`` are scales of what the robot's model says, 1 by default.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from graft.envs.adapters.gymnasium.tunable import TunableAdapter, TunableSpec, Values
from graft.envs.adapters.joints import actuator_names, body_names
from graft.envs.adapters.packages import state
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.core.task import Bounds, Task
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError

ROBOTS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5")

MECHANICS = (
    Mechanic("mass", "scale of all masses and inertias", 1.0, 0.1, 10.0),
    Mechanic("friction", "scale of the friction of all contacts", 1.0, 0.0, 10.0),
    Mechanic("damping", "scale of the joints' damping", 1.0, 0.0, 10.0),
    Mechanic("armature", "scale of the motors' rotor inertia", 1.0, 0.1, 10.0),
    Mechanic("gain", "scale of the force of all motors", 1.0, 0.0, 5.0),
    Mechanic("gravity", "scale of gravity: 1 is the Earth's, 0.165 the Moon's", 1.0, 0.0, 5.0),
)
BODY, MOTOR = "mass_", "gain_"
_FIXED, _AFFINE = 0, 1  # MuJoCo's types of actuators whose force is proportional to their parameters


class ModelScaler:
    """Scales parameters of a compiled model, each time from the original, and keeps it physically valid.

    A body's mass and inertia are scaled together, as an inertia of its own may be impossible. What MuJoCo derives from
    them (`mj_setConst`) is derived anew in a scratch state. Unstable simulations are faults: MuJoCo's reset is off.
    """

    PARTS = (
        *("body_mass", "body_inertia", "geom_friction", "pair_friction", "dof_damping", "dof_dampingpoly"),
        *("dof_armature", "actuator_gainprm", "actuator_biasprm"),
    )

    def __init__(self, env: Any) -> None:
        self._mujoco = importlib.import_module("mujoco")
        self._model = env.model
        env.model.opt.disableflags |= int(self._mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self._scratch = self._mujoco.MjData(env.model)
        self._original = {name: getattr(env.model, name).copy() for name in self.PARTS if hasattr(env.model, name)}
        self._gravity = env.model.opt.gravity.copy()
        self._bodies = [BODY + name for name in body_names(env.model) or ()]
        self._motors = [MOTOR + name for name in actuator_names(env.model) or ()]
        self._proportional = bool(np.isin(env.model.actuator_gaintype, (_FIXED, _AFFINE)).all())

    def __call__(self, p: Values) -> None:
        """Apply the scales ``p``."""
        masses = np.full(self._model.nbody, float(p["mass"]))
        gains = np.full(self._model.nu, float(p["gain"]))
        if self._bodies:
            masses[1:] *= [p[name] for name in self._bodies]  # body 0 is the world
        if self._motors:
            gains *= [p[name] for name in self._motors]
        if not self._proportional and (gains != 1.0).any():
            raise GraftError("gain scales motors alone; this model has muscles or actuators of its own kind.")
        scales: dict[str, Any] = {
            "body_mass": masses,
            "body_inertia": masses[:, None],
            "geom_friction": p["friction"],
            "pair_friction": p["friction"],
            "dof_damping": p["damping"],
            "dof_dampingpoly": p["damping"],
            "dof_armature": p["armature"],
            "actuator_gainprm": gains[:, None],
            "actuator_biasprm": gains[:, None],  # a servo's force has both
        }
        for name, original in self._original.items():
            getattr(self._model, name)[:] = original * scales[name]
        self._model.opt.gravity[:] = self._gravity * p["gravity"]
        self._mujoco.mj_setConst(self._model, self._scratch)


def parts(env: Any) -> tuple[Mechanic, ...]:
    """The mechanics of a robot's bodies and motors, by their names in the model."""
    scale = {m.name: m for m in MECHANICS}
    bodies = [
        Mechanic(BODY + name, f"scale of the mass and inertia of {name}", 1.0, scale["mass"].low, scale["mass"].high)
        for name in body_names(env.model) or ()
    ]
    motors = [
        Mechanic(MOTOR + name, f"scale of the force of the motor of {name}", 1.0, 0.0, scale["gain"].high)
        for name in actuator_names(env.model) or ()
    ]
    return (*bodies, *motors)


SPEC = TunableSpec(MECHANICS, ModelScaler, parts, {BODY: "body", MOTOR: "joint"})


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MuJoCo from writing warnings about models into a log file."""
    try:
        mujoco = importlib.import_module("mujoco")
        before = mujoco.get_mju_user_warning()
    except (ImportError, AttributeError):
        yield
        return
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


class RobotsAdapter(TunableAdapter):
    """The robots of `ROBOTS`."""

    construction_context = staticmethod(quiet)

    def bounds(self, task: Task) -> Bounds | None:
        """None: there are none for the fifth versions."""
        return None

    def states(self) -> dict[str, str]:
        return {"MuJoCo with dynamics": state("mujoco", "MuJoCo")}

    def counts(self) -> dict[str, int]:
        return dict.fromkeys(self.states(), len(self.table))


ADAPTERS.add("mujoco", RobotsAdapter(dict.fromkeys(ROBOTS, SPEC)))
