"""Classic control and Box2D with their constants, in their units, as mechanics: ``CartPole-v1`` with ``length=1``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from graft.envs.adapters.gymnasium.tunable import TunableAdapter, TunableSpec, Values
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.factory import ADAPTERS

Constants = dict[Mechanic, str]  # each mechanic with the environment's attribute that holds it


def _attributes(constants: Constants, derive: Callable[[Any], None] | None, env: Any) -> Callable[[Values], None]:

    def apply(p: Values) -> None:
        for mechanic, attribute in constants.items():
            setattr(env, attribute, p[mechanic.name])
        if derive:
            derive(env)

    return apply


def _spec(constants: Constants, derive: Callable[[Any], None] | None = None, idle: int = 0) -> TunableSpec:
    apply = partial(_attributes, constants, derive)
    return TunableSpec(tuple(constants), apply, idle=idle, aliases=_aliases(constants))


def _aliases(constants: Constants) -> dict[str, str]:
    """Attributes of the environment that have another name here, and the other word for gravity, in the same unit."""
    found = {attribute: mechanic.name for mechanic, attribute in constants.items() if attribute != mechanic.name}
    own = {mechanic.name for mechanic in constants}
    return found | {word: other for word, other in (("gravity", "g"), ("g", "gravity")) if other in own}


def _cartpole(env: Any) -> None:
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


def _acrobot(env: Any) -> None:
    """The centres of mass stay in the middle of the links."""
    env.LINK_COM_POS_1, env.LINK_COM_POS_2 = env.LINK_LENGTH_1 / 2, env.LINK_LENGTH_2 / 2


def _lander(env: Any) -> None:
    """Its world is made at a reset; within an episode the existing one changes."""
    if env.world is not None:
        env.world.gravity = (0, env.gravity)


CARTPOLE = _spec(
    {
        Mechanic("length", "half the length of the pole, m", 0.5, 0.05, 5.0): "length",
        Mechanic("masspole", "mass of the pole, kg", 0.1, 0.01, 10.0): "masspole",
        Mechanic("masscart", "mass of the cart, kg", 1.0, 0.1, 10.0): "masscart",
        Mechanic("gravity", "gravity, m/s^2", 9.8, 0.0, 50.0): "gravity",
        Mechanic("force", "force of a push, N", 10.0, 0.0, 100.0): "force_mag",
    },
    _cartpole,
)
ACROBOT = _spec(
    {
        Mechanic("length_1", "length of the upper link, m", 1.0, 0.1, 5.0): "LINK_LENGTH_1",
        Mechanic("length_2", "length of the lower link, m", 1.0, 0.1, 5.0): "LINK_LENGTH_2",
        Mechanic("mass_1", "mass of the upper link, kg", 1.0, 0.1, 10.0): "LINK_MASS_1",
        Mechanic("mass_2", "mass of the lower link, kg", 1.0, 0.1, 10.0): "LINK_MASS_2",
        Mechanic("inertia", "moment of inertia of each link, kg m^2", 1.0, 0.05, 10.0): "LINK_MOI",
    },
    _acrobot,
    idle=1,
)
PENDULUM = _spec(
    {
        Mechanic("g", "gravity, m/s^2", 10.0, 0.0, 50.0): "g",
        Mechanic("mass", "mass, kg", 1.0, 0.1, 10.0): "m",
        Mechanic("length", "length, m", 1.0, 0.1, 5.0): "l",
    }
)
MOUNTAIN_CAR = _spec(
    {
        Mechanic("gravity", "how much of the slope a step adds to the speed", 0.0025, 0.0, 0.02): "gravity",
        Mechanic("force", "how much the engine adds to the speed in a step", 0.001, 0.0, 0.01): "force",
    },
    idle=1,
)
MOUNTAIN_CAR_CONTINUOUS = _spec(
    {Mechanic("power", "how much the engine at full force adds to the speed in a step", 0.0015, 0.0, 0.01): "power"}
)
LANDER = _spec(
    {
        Mechanic("gravity", "gravity; downwards is negative", -10.0, -11.99, -0.01): "gravity",
        Mechanic("wind_power", "greatest force of the wind, with enable_wind", 15.0, 0.0, 20.0): "wind_power",
        Mechanic("turbulence_power", "its greatest torque, with enable_wind", 1.5, 0.0, 2.0): "turbulence_power",
    },
    _lander,
)

TABLE: Mapping[str, TunableSpec] = {
    "CartPole-v1": CARTPOLE,
    "Acrobot-v1": ACROBOT,
    "Pendulum-v1": PENDULUM,
    "MountainCar-v0": MOUNTAIN_CAR,
    "MountainCarContinuous-v0": MOUNTAIN_CAR_CONTINUOUS,
    "LunarLander-v3": LANDER,
    "LunarLanderContinuous-v3": LANDER,
}

ADAPTERS.add("classic", TunableAdapter(TABLE))
