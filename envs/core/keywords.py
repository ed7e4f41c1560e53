"""Words that users try for a task's keywords, beside those that it has."""

from __future__ import annotations

from collections.abc import Iterable

from graft.errors import GraftError, unknown

ALIKE: tuple[tuple[str, ...], ...] = (
    ("gravity", "g", "gravitation"),
    ("mass", "m", "weight", "masspole", "masscart", "mass_1"),
    ("masspole", "pole_mass", "mass_pole"),
    ("masscart", "cart_mass", "mass_cart"),
    ("length", "l", "pole_length", "length_1"),
    ("force", "force_mag", "power", "gain", "strength", "torque", "max_torque", "motor_strength", "actuator_strength"),
    ("inertia", "moment_of_inertia", "moi"),
    ("wind_power", "wind", "wind_strength", "enable_wind"),
    ("noise", "observation_noise", "obs_noise", "sensor_noise"),
    ("delay", "action_delay", "latency"),
    ("stuck", "sticky", "sticky_actions", "repeat_action_probability"),
    ("max_episode_steps", "max_steps", "time_limit", "episode_length", "horizon", "max_timesteps", "episode_steps"),
    ("frame_skip", "action_repeat", "skip", "repeat"),
    ("render_mode", "render", "mode"),
    ("is_slippery", "slippery", "slip", "stochastic"),
    ("map_name", "size", "map_size", "grid_size"),
    ("frame_stack", "stack_num", "stack", "num_stack", "wrappers"),
)
"""Groups of names that are used for the same thing or the next one to it, the most usual first."""


def meant(given: str, allowed: Iterable[str]) -> str | None:
    """The first of ``allowed`` that is in a group with ``given``, if any."""
    names, word = set(allowed), given.casefold()
    return next((name for group in ALIKE if word in group for name in group if name in names), None)


def unknown_keyword(kind: str, given: str, allowed: Iterable[str], limit: int = 24) -> GraftError:
    """`unknown`, which suggests what is called so elsewhere before what is spelled alike.

    A word that means something here is suggested only what is spelled very much like it.
    """
    names, known = list(allowed), any(given.casefold() in group for group in ALIKE)
    return unknown(kind, given, names, limit, cutoff=0.8 if known else 0.5, meant=meant(given, names))
