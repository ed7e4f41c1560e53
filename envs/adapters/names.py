"""Names of features and actions of well-known environments, from their documentation.

Two tasks that share a name share its weights in a transfer, so a name is used only where it means the same.
"""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """Names of one environment's observation features and of its actions; None where nobody wrote them down."""

    observation: tuple[str, ...] | None = None
    action: tuple[str, ...] | None = None


_CARTPOLE = Names(("cart_position", "cart_velocity", "pole_angle", "pole_velocity"), ("left", "right"))
_ACROBOT = Names(
    ("cos_angle_1", "sin_angle_1", "cos_angle_2", "sin_angle_2", "angular_velocity_1", "angular_velocity_2"),
    ("torque_negative", "torque_zero", "torque_positive"),
)

_BY_NAME = {
    "CartPole-v0": _CARTPOLE,
    "CartPole-v1": _CARTPOLE,
    "MountainCar-v0": Names(("position", "velocity"), ("left", "noop", "right")),
    "MountainCarContinuous-v0": Names(("position", "velocity"), ("force",)),
    "Acrobot-v1": _ACROBOT,
    "Pendulum-v1": Names(("cos_angle", "sin_angle", "angular_velocity"), ("torque",)),
}


def names_of(env_id: str) -> Names:
    """The names of ``env_id`` (without a module or adapter prefix); empty where it is not in the table."""
    return _BY_NAME.get(env_id, Names())
