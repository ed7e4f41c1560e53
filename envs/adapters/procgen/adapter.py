"""Procgen's games, from EnvPool: names of actions and colours, and published scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graft.envs.adapters.spaces import ObservationCodec
from graft.envs.core.task import Bounds
from graft.errors import GraftError

ACTIONS = (
    *("left_down", "left", "left_up", "down", "noop", "up", "right_down", "right", "right_up"),
    *("key_d", "key_a", "key_w", "key_s", "key_q", "key_e"),
)
"""Keys held down; what the last six do differs from game to game, and is nothing in many."""

SCORES = {
    "Coinrun": ((5.0, 10.0), (5.0, 10.0)),
    "Starpilot": ((2.5, 64.0), (1.5, 35.0)),
    "Caveflyer": ((3.5, 12.0), (2.0, 13.4)),
    "Dodgeball": ((1.5, 19.0), (1.5, 19.0)),
    "Fruitbot": ((-1.5, 32.4), (-0.5, 27.2)),
    "Chaser": ((0.5, 13.0), (0.5, 14.2)),
    "Miner": ((1.5, 13.0), (1.5, 20.0)),
    "Jumper": ((3.0, 10.0), (1.0, 10.0)),
    "Leaper": ((3.0, 10.0), (1.5, 10.0)),
    "Maze": ((5.0, 10.0), (4.0, 10.0)),
    "Bigfish": ((1.0, 40.0), (0.0, 40.0)),
    "Heist": ((3.5, 10.0), (2.0, 10.0)),
    "Climber": ((2.0, 12.6), (1.0, 12.6)),
    "Plunder": ((4.5, 30.0), (3.0, 30.0)),
    "Ninja": ((3.5, 10.0), (2.0, 10.0)),
    "Bossfight": ((0.5, 13.0), (0.5, 13.0)),
}
"""R_min and R_max of the easy and of the hard levels."""

_ID = re.compile(r"([A-Z][a-z]+)(Easy|Hard)-v0")


def is_procgen(config: Mapping[str, Any]) -> bool:
    """Whether EnvPool's configuration of a task is a Procgen game's."""
    return {"num_levels", "distribution_mode"} <= config.keys()


def is_procgen_name(name: str) -> bool:
    """Whether it is EnvPool's name of a Procgen game in one of its modes."""
    return re.match(rf"({'|'.join(SCORES)})[A-Z][a-z]+-v0$", name) is not None


def check_procgen(task: str, config: Mapping[str, Any]) -> None:
    """Raises GraftError for numbers below 0, which EnvPool accepts and misreads."""
    for key, meaning in (("num_levels", "the number of levels, 0 for all of them"), ("start_level", "the first level")):
        if config[key] < 0:
            raise GraftError(f"{key}={config[key]} of {task} is not allowed; give {meaning}, 0 or more.")


def procgen_codec(codec: ObservationCodec) -> ObservationCodec:
    """``codec`` of a picture, whose three channels are colours, wherever EnvPool puts them."""
    return codec._replace(schema=replace(codec.schema, names=("red", "green", "blue")))


def procgen_bounds(name: str) -> Bounds | None:
    """Scores of ``CoinrunEasy-v0`` or ``CoinrunHard-v0``; those of other modes are not published."""
    found = _ID.fullmatch(name)
    if found is None or found[1] not in SCORES:
        return None
    low, high = SCORES[found[1]][found[2] == "Hard"]
    return Bounds(low, high, "random: R_min, expert: R_max of Cobbe et al. 2020, appendix C, for this mode")
