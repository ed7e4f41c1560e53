"""Atari's games, from ale_py through Gymnasium or from EnvPool: names of actions and frames, and published scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.adapters.spaces import ObservationCodec
from graft.envs.core.schema import uint8_schema
from graft.envs.core.task import Bounds
from graft.errors import GraftError

ACTIONS = (
    *("noop", "fire", "up", "right", "left", "down"),
    *("upright", "upleft", "downright", "downleft", "upfire", "rightfire"),
    *("leftfire", "downfire", "uprightfire", "upleftfire", "downrightfire", "downleftfire"),
)
"""All that a joystick can do, in the order of the Arcade Learning Environment, whose names these are."""

_MINIMAL = {
    "AirRaid Carnival DemonAttack Galaxian NameThisGame Pong SirLancelot SpaceInvaders": (0, 1, 3, 4, 11, 12),
    "Amidar MrDo TimePilot WizardOfWor": (0, 1, 2, 3, 4, 5, 10, 11, 12, 13),
    "Assault": (0, 1, 2, 3, 4, 11, 12),
    "Asterix CrazyClimber Koolaid LostLuggage MsPacman": (0, 2, 3, 4, 5, 6, 7, 8, 9),
    "Asteroids": (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15),
    "Atlantis Atlantis2": (0, 1, 11, 12),
    "Backgammon": (1, 3, 4),
    "BasicMath KingKong Qbert": (0, 1, 2, 3, 4, 5),
    "BeamRider": (0, 1, 2, 3, 4, 6, 7, 11, 12),
    "Blackjack Casino": (0, 1, 2, 5),
    "Bowling Pooyan UpNDown": (0, 1, 2, 5, 10, 13),
    "Breakout Kaboom": (0, 1, 3, 4),
    "Enduro": (0, 1, 3, 4, 5, 8, 9, 11, 12),
    "Freeway": (0, 2, 5),
    "Frogger Pacman Surround": (0, 2, 3, 4, 5),
    "Gopher": (0, 1, 2, 3, 4, 10, 11, 12),
    "JourneyEscape": (0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17),
    "KeystoneKapers": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
    "KungFuMaster": (0, 2, 3, 4, 5, 8, 9, 11, 12, 13, 14, 15, 16, 17),
    "Othello TicTacToe3d VideoChess": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "Phoenix": (0, 1, 3, 4, 5, 11, 12, 13),
    "Skiing": (0, 3, 4),
    "Tetris": (0, 1, 3, 4, 5),
    "Turmoil": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12),
    "Tutankham": (0, 2, 3, 4, 5, 10, 11, 12),
    "VideoCheckers": (1, 6, 7, 8, 9),
    "VideoPinball": (0, 1, 2, 3, 4, 5, 10, 11, 12),
}
"""The actions that a game makes use of, where these are not all of them: ale_py's minimal sets."""

_SETS = {game: places for games, places in _MINIMAL.items() for game in games.split()}
_ID = re.compile(r"(?:ALE/)?(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)?-v[045]")
_LEAST = {"noop_max": 1, "frame_skip": 1, "stack_num": 1, "img_height": 1, "img_width": 1}


def is_atari(config: Mapping[str, Any]) -> bool:
    """Whether EnvPool's configuration of a task is an Atari game's."""
    return {"noop_max", "stack_num", "full_action_space"} <= config.keys()


def atari_actions(name: str, count: int) -> tuple[str, ...] | None:
    """Names of the ``count`` actions of EnvPool's ``name``, such as ``Pong-v5``; None where they are not known."""
    places = _SETS.get(name.removesuffix("-v5"), range(len(ACTIONS)))
    found = ACTIONS if count == len(ACTIONS) else tuple(ACTIONS[i] for i in places)
    return found if len(found) == count else None


def check_atari(task: str, config: Mapping[str, Any]) -> None:
    """Raises GraftError for numbers out of range, with which EnvPool would end the process or misbehave."""
    for key, least in _LEAST.items():
        if config[key] < least:
            raise GraftError(f"{key}={config[key]} of {task} is not allowed; give {least} or more.")
    chance = config["repeat_action_probability"]
    if not 0.0 <= chance <= 1.0:
        raise GraftError(f"repeat_action_probability={chance} of {task} is not allowed; give a number from 0 to 1.")


def atari_codec(space: gym.spaces.Box, stack: int) -> ObservationCodec:
    """The codec of ``stack`` frames (C, H, W), oldest first: ``frame_0`` and on, with colours ``frame_0:red``."""
    count, height, width = space.shape
    if count == stack:
        names = tuple(f"frame_{i}" for i in range(stack)) if stack > 1 else ("grey",)
    else:
        colours = ("red", "green", "blue")
        names = tuple(f"frame_{i}:{colour}" for i in range(stack) for colour in colours) if stack > 1 else colours
    schema = uint8_schema("pixels", names, (count, height, width), 255)
    return ObservationCodec(schema, lambda raw: np.array(raw, np.uint8, order="C"))


_SCORES = """
Alien 227.8 7127.7;  Amidar 5.8 1719.5;  Assault 222.4 742.0;  Asterix 210.0 8503.3;  Asteroids 719.1 47388.7;
Atlantis 12850.0 29028.1;  BankHeist 14.2 753.1;  BattleZone 2360.0 37187.5;  BeamRider 363.9 16926.5;
Berzerk 123.7 2630.4;  Bowling 23.1 160.7;  Boxing 0.1 12.1;  Breakout 1.7 30.5;  Centipede 2090.9 12017.0;
ChopperCommand 811.0 7387.8;  CrazyClimber 10780.5 35829.4;  Defender 2874.5 18688.9;  DemonAttack 152.1 1971.0;
DoubleDunk -18.6 -16.4;  Enduro 0.0 860.5;  FishingDerby -91.7 -38.7;  Freeway 0.0 29.6;  Frostbite 65.2 4334.7;
Gopher 257.6 2412.5;  Gravitar 173.0 3351.4;  Hero 1027.0 30826.4;  IceHockey -11.2 0.9;  Jamesbond 29.0 302.8;
Kangaroo 52.0 3035.0;  Krull 1598.0 2665.5;  KungFuMaster 258.5 22736.3;  MontezumaRevenge 0.0 4753.3;
MsPacman 307.3 6951.6;  NameThisGame 2292.3 8049.0;  Phoenix 761.4 7242.6;  Pitfall -229.4 6463.7;
Pong -20.7 14.6;  PrivateEye 24.9 69571.3;  Qbert 163.9 13455.0;  Riverraid 1338.5 17118.0;
RoadRunner 11.5 7845.0;  Robotank 2.2 11.9;  Seaquest 68.4 42054.7;  Skiing -17098.1 -4336.9;
Solaris 1236.3 12326.7;  SpaceInvaders 148.0 1668.7;  StarGunner 664.0 10250.0;  Surround -10.0 6.5;
Tennis -23.8 -8.3;  TimePilot 3568.0 5229.2;  Tutankham 11.4 167.6;  UpNDown 533.4 11693.2;  Venture 0.0 1187.5;
VideoPinball 16256.9 17667.9;  WizardOfWor 563.5 4756.5;  YarsRevenge 3092.9 54576.9;  Zaxxon 32.5 9173.3
"""
SCORES = {game: (float(random), float(expert)) for game, random, expert in map(str.split, _SCORES.split(";"))}
"""Random play and a professional tester's, of the 57 games."""


def atari_bounds(name: str, kwargs: Mapping[str, Any]) -> Bounds | None:
    """Scores of ``Pong-v5``, ``ALE/Pong-v5`` or an older id of theirs; None where rewards or episodes are others."""
    found = _ID.fullmatch(name)
    scores = SCORES.get(found[1]) if found else None
    if scores is None or kwargs.get("reward_clip") or kwargs.get("episodic_life"):
        return None
    how = "random and expert, a human tester: the table of Wang et al. 2016 (after Mnih et al. 2015), no-op starts"
    return Bounds(*scores, how)
