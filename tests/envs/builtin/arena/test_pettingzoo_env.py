"""The arenas as PettingZoo environments: its own conformance tests, agents that leave, the picture and errors."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from graft.envs import GraftError
from graft.envs.builtin.arena import pettingzoo_env

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports games of its own in an old way
    from pettingzoo.test import parallel_api_test, parallel_seed_test

GAMES = [
    ("pursuit", {}),
    ("pursuit", {"hunters": 2, "prey": 3}),
    ("pursuit", {"hunters": [1, 4], "prey": [1, 8]}),
    ("gather", {}),
    ("gather", {"reds": [1, 3], "blues": [2, 8], "coins": 4}),
]


@pytest.mark.parametrize(("game", "options"), GAMES)
def test_pettingzoo_conformance(game: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where it finds fault, it only warns
        parallel_api_test(pettingzoo_env.parallel_env(game, **options), num_cycles=1000)
        parallel_seed_test(lambda: pettingzoo_env.parallel_env(game, **options), num_cycles=200)
    assert "Passed Parallel API test" in capsys.readouterr().out


def episode(env: Any, seed: int) -> tuple[list[set[str]], dict[str, Any]]:
    """Who took part in each step of a random game, and the infos of the last."""
    env.reset(seed=seed)
    draw, there, infos = np.random.default_rng(seed), [], {}
    while env.agents:
        there.append(set(env.agents))
        infos = env.step({agent: int(draw.integers(6)) for agent in env.agents})[4]
    return there, infos


def test_agents_leave_one_by_one_and_never_come_back() -> None:
    env = pettingzoo_env.parallel_env("pursuit", hunters=8, prey=4)
    lasting, winners = [], set()
    for seed in range(8):
        there, infos = episode(env, seed)
        assert all(later <= before for before, later in pairwise(there))
        assert all(f"hunter_{k}" in there[-1] for k in range(8))
        lasting += [sum(f"prey_{k}" in step for step in there) for k in range(4)]
        winners |= {info["winner"] for info in infos.values()}
    assert len(set(lasting)) > 8
    assert winners <= {"hunters", "prey"}
    assert "hunters" in winners


def test_slots_that_are_not_in_play_end_with_the_first_step() -> None:
    env = pettingzoo_env.parallel_env("pursuit", hunters=2, prey=[1, 6], reach=0)
    absent = set()
    for seed in range(6):
        obs, infos = env.reset(seed=seed)
        assert set(env.agents) == set(env.possible_agents) == set(obs) == set(infos)
        out = {agent for agent in env.agents if infos[agent] == {"alive": False}}
        assert all(not obs[agent].any() for agent in out)
        assert all(obs[agent][0, 4, 4] == 1 for agent in set(env.agents) - out)
        _, rewards, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 0))
        assert all(terminated[agent] and rewards[agent] == 0 for agent in out)
        assert not any(truncated.values())
        assert not out & set(env.agents)
        absent.add(len(out))
    assert len(absent) > 2


def test_picture_text_and_state_show_the_board() -> None:
    env = pettingzoo_env.parallel_env("gather", "rgb_array", reds=2, blues=3, coins=7, walls=0.1)
    env.reset(seed=3)
    assert env.state_space.contains(env.state())
    assert env.state().sum(axis=(1, 2)).tolist() == [2, 3, 10, 7]
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape[2] == 3
    assert frame.std() > 10
    text = pettingzoo_env.parallel_env("gather", "ansi", reds=2, blues=3, coins=7)
    text.reset(seed=3)
    assert [text.render().count(glyph) for glyph in "apo"] == [2, 3, 7]
    silent = pettingzoo_env.parallel_env()
    silent.reset(seed=0)
    assert silent.render() is None


def test_environments_that_nobody_seeds_differ() -> None:
    made = [pettingzoo_env.parallel_env() for _ in range(3)]
    for env in made:
        env.reset()
    assert len({env.state().tobytes() for env in made}) > 1


def test_what_is_not_offered_is_refused() -> None:
    with pytest.raises(GraftError, match=r"Unknown arena 'persuit'; allowed: gather, pursuit. Did you mean 'pursuit'"):
        pettingzoo_env.parallel_env("persuit")
    with pytest.raises(GraftError, match="Did you mean 'hunters'"):
        pettingzoo_env.parallel_env("pursuit", hunter=3)
    with pytest.raises(GraftError, match="Unknown render_mode of Graft/Pursuit-v0 'human'"):
        pettingzoo_env.parallel_env(render_mode="human")
    env = pettingzoo_env.parallel_env("pursuit", hunters=8, prey=1, max_steps=10)
    env.reset(seed=0)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
    with pytest.raises(GraftError, match="call reset"):
        env.step({})
