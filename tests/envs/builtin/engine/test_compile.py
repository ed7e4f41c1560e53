"""The kernel cache: rules that are compiled together never answer for others."""

from __future__ import annotations

import dataclasses

import numpy as np

from graft.envs.builtin.engine import kernel
from graft.envs.builtin.engine.compile import jit, specialise
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.state import new_state, seed_state


@jit
def generous(s, i, action, p):
    """Seven for every step."""
    return 7.0, False


def rewards_of(game, advance, count=4):
    """Rewards of one step of a batch under the game's rules with another ``advance``."""
    rules = {"begin": game.begin, "advance": advance, "paint": game.paint}
    step = specialise(kernel.step_batch, rules)
    state, planes = new_state(count, game.movers, game.memo), np.zeros((count, *game.planes.shape), np.uint8)
    seed_state(state, np.arange(count, dtype=np.uint64))
    settings = game.resolve({}).settings
    game.reset_batch(state, settings, np.ones(count, np.bool_), planes)
    rewards, ended, cut = np.zeros(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    waiting, actions = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    step(state, settings, actions, waiting, True, 200, planes, planes.copy(), rewards, ended, cut)
    return rewards.tolist()


def test_a_game_that_shares_rules_with_another_keeps_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAFT_CACHE_DIR", str(tmp_path))
    dodge = GAMES["Graft/Dodge-v0"]
    assert 7.0 not in rewards_of(dodge, dodge.advance)
    assert rewards_of(dodge, generous) == [7.0] * 4
    assert rewards_of(dataclasses.replace(dodge), generous) == [7.0] * 4, "and when it comes from the disk"


def test_a_change_in_a_neighbouring_file_is_noticed(monkeypatch, tmp_path):
    from graft.envs.builtin.engine import compile as compiling

    rules = {"advance": GAMES["Graft/Dodge-v0"].advance}
    before = compiling._cache_folder("step_batch", rules)
    read = compiling.Path.read_bytes
    monkeypatch.setattr(compiling.Path, "read_bytes", lambda p: read(p) + (b"#" if p.name == "hunt.py" else b""))
    assert compiling._cache_folder("step_batch", rules) != before
