"""Atari's names against ale_py, keywords that EnvPool leaves unchecked, and scores under both providers' ids."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.atari import adapter as atari

INSTALL = "pip install 'graft-rl[games]'"
PONG = "envpool/Pong-v5"

needs_envpool = pytest.mark.skipif(find_spec("envpool") is None, reason=f"EnvPool is missing: {INSTALL}")


def names(**kwargs: Any) -> tuple[str, ...]:
    return envs.schemas(Task(PONG, kwargs)).observation.names


def test_actions_are_ales_own() -> None:
    ale_py = pytest.importorskip("ale_py", reason=INSTALL)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for game, rom in (("Pong", "pong"), ("Alien", "alien"), ("KungFuMaster", "kung_fu_master"), ("Tetris", "tetris")):
        ale = ale_py.ALEInterface()
        ale.loadROM(ale_py.roms.get_rom_path(rom))
        minimal = tuple(action.name.lower() for action in ale.getMinimalActionSet())
        assert atari.atari_actions(f"{game}-v5", len(minimal)) == minimal
        assert tuple(action.name.lower() for action in ale.getLegalActionSet()) == atari.ACTIONS
    assert atari.atari_actions("Pong-v5", 7) is None


@needs_envpool
@pytest.mark.parametrize("game", ["Backgammon", "Freeway", "VideoPinball", "Atlantis2"])
def test_games_have_the_actions_that_are_named(game: str) -> None:
    names = envs.schemas(Task(f"envpool/{game}-v5")).action.names
    assert set(names) < set(atari.ACTIONS)


@needs_envpool
def test_frames_and_actions() -> None:
    assert envs.schemas(Task(PONG)).action.names == ("noop", "fire", "right", "left", "rightfire", "leftfire")
    assert envs.schemas(Task(PONG, {"full_action_space": True})).action.names == atari.ACTIONS
    assert names() == ("frame_0", "frame_1", "frame_2", "frame_3")
    assert names(stack_num=2, gray_scale=False)[:4] == ("frame_0:red", "frame_0:green", "frame_0:blue", "frame_1:red")
    assert names(stack_num=1, gray_scale=False) == ("red", "green", "blue")
    assert names(stack_num=1) == ("grey",)


@needs_envpool
def test_the_newest_frame_is_the_last() -> None:
    env = envs.make(Task(PONG, {"noop_max": 1, "frame_skip": 1}), 1, 0)
    env.reset()
    obs = [env.step([2])[0][0] for _ in range(80)]
    assert all((after[:3] == before[1:]).all() for before, after in pairwise(obs))
    assert any((after[3] != before[3]).any() for before, after in pairwise(obs))


@needs_envpool
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"noop_max": 0}, "noop_max=0 of envpool/Pong-v5 is not allowed; give 1 or more"),
        ({"stack_num": 0}, "stack_num=0 of"),
        ({"img_height": 0}, "img_height=0 of"),
        ({"repeat_action_probability": 2.0}, "repeat_action_probability=2.0 of .* give a number from 0 to 1"),
        ({"mode": 99}, "does not accept mode=99: Invalid game mode"),
        ({"difficulty": 9}, "does not accept difficulty=9: Invalid difficulty"),
        ({"noop_max": "x"}, "does not accept noop_max='x'"),
        ({"dificulty": 1}, "Did you mean 'difficulty'"),
    ],
)
def test_bad_keywords_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        envs.make(Task(PONG, kwargs), 1, 0)


def test_scores() -> None:
    found = {
        envs.bounds(Task(i)) for i in (PONG, "ale_py:ALE/Pong-v5", "ALE/Pong-v5", "PongNoFrameskip-v4", "Pong-ram-v0")
    }
    (pong,) = found
    assert pong is not None
    assert (pong.random, pong.expert) == (-20.7, 14.6)
    assert "Wang et al. 2016" in pong.how
    assert len(atari.SCORES) == 57
    assert all(low < high for low, high in atari.SCORES.values())
    assert envs.bounds(Task(PONG, {"reward_clip": True})) is None
    assert envs.bounds(Task("envpool/Tetris-v5")) is None
