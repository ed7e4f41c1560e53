"""Arenas as batches: sizes that change, what agents see, autoreset, batches of one, saved states and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.arena_states import arena, by_team, play, random_steps

from graft.envs import GraftError
from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.arena.game import ARENAS
from graft.envs.builtin.arena.view import THINGS
from graft.envs.builtin.engine.game import NOOP, RIGHT
from graft.envs.builtin.engine.state import COIN, WALL

RANGES: dict[str, dict[str, Any]] = {
    "pursuit": {"hunters": [2, 4], "prey": [1, 4]},
    "gather": {"reds": [1, 4], "blues": [2, 3], "coins": 6},
}
EVERY = [(name, options) for name in ARENAS for options in ({}, RANGES.get(name, {}))]


def assert_same(a: tuple[Any, ...], b: tuple[Any, ...], rows: slice = slice(None)) -> None:
    """One step of two batches, of which the second is compared in ``rows``."""
    for team in a[0]:
        np.testing.assert_array_equal(a[0][team], b[0][team][rows])
    for x, y in zip(a[1:5], b[1:5], strict=True):
        np.testing.assert_array_equal(x, y[rows])
    np.testing.assert_array_equal(a[5]["winner"], b[5]["winner"][rows])


@pytest.mark.parametrize(("game", "options"), EVERY)
def test_batch_of_n_equals_n_batches_of_one(game: str, options: dict[str, Any]) -> None:
    together = ArenaBatch(game, 3, seed=5, **options)
    first = together.reset()
    played = random_steps(together, 150)
    assert sum((step[5]["winner"] != -1).sum() for step in played) >= 3
    draw = np.random.default_rng(0).integers(0, 6, (150, 64, len(together.agents)))
    for i in range(3):
        alone = ArenaBatch(game, 1, seed=5 + i, **options)
        start = alone.reset()
        np.testing.assert_array_equal(start[1][0], first[1][i])
        for step, actions in zip(played, draw, strict=True):
            assert_same(alone.step(by_team(alone, actions[i : i + 1])), step, slice(i, i + 1))


@pytest.mark.parametrize(("game", "options"), EVERY)
def test_restored_state_replays_the_future(game: str, options: dict[str, Any]) -> None:
    batch = ArenaBatch(game, 8, **options)
    batch.reset()
    random_steps(batch, 40)
    saved = batch.save_state()
    seen, alive = batch.observe()
    first = random_steps(batch, 80, seed=1)
    elsewhere = ArenaBatch(game, 8, seed=99, **options)
    elsewhere.restore_state(saved)
    for team in seen:
        np.testing.assert_array_equal(elsewhere.observe()[0][team], seen[team])
    np.testing.assert_array_equal(elsewhere.observe()[1], alive)
    for a, b in zip(first, random_steps(elsewhere, 80, seed=1), strict=True):
        assert_same(a, b)
    with pytest.raises(GraftError, match="'place' has shape"):
        ArenaBatch(game, 4, **options).restore_state(saved)


@pytest.mark.parametrize(("game", "options"), EVERY)
def test_both_autoreset_conventions_play_the_same_games(game: str, options: dict[str, Any]) -> None:
    same, later = (ArenaBatch(game, 1, 3, mode, **options) for mode in ("SameStep", "NextStep"))
    start, other = same.reset(), later.reset()
    np.testing.assert_array_equal(start[1], other[1])
    draw, ends = np.random.default_rng(2), 0
    for actions in draw.integers(0, 6, (250, 1, len(same.agents))):
        a, b = same.step(by_team(same, actions)), later.step(by_team(later, actions))
        for x, y in zip(a[1:4], b[1:4], strict=True):
            np.testing.assert_array_equal(x, y)
        assert a[5]["winner"] == b[5]["winner"]
        ended = a[2][0]
        for team, its in same.teams.items():
            for k, slot in enumerate(its):
                if ended[slot]:
                    np.testing.assert_array_equal(a[5]["final_obs"][team][0, k], b[0][team][0, k])
        if a[5]["winner"] == -1:
            np.testing.assert_array_equal(a[4], b[4])
            continue
        ends += 1
        assert not b[4].any(), "nobody acts in the step that resets"
        b = later.step(by_team(later, actions))
        assert not b[1].any()
        assert not b[2].any()
        np.testing.assert_array_equal(a[4], b[4])
        for team in a[0]:
            np.testing.assert_array_equal(a[0][team], b[0][team])
    assert ends >= 2


@pytest.mark.parametrize("game", list(RANGES))
def test_sizes_change_within_their_ranges_and_the_absent_see_nothing(game: str) -> None:
    batch = ArenaBatch(game, 128, **RANGES[game])
    obs, alive, _ = batch.reset()
    for team, its in batch.teams.items():
        low, high = RANGES[game][team]
        assert len(its) == high
        here = alive[:, list(its)]
        assert set(here.sum(axis=1).tolist()) == set(range(low, high + 1))
        assert (here == (np.arange(high) < here.sum(axis=1)[:, None])).all(), "the first slots are in play"
        assert not obs[team][~here].any()
        assert obs[team][here][:, 0, 4, 4].all()


def test_kills_in_mid_episode_end_one_agent_alone() -> None:
    for game in ARENAS:
        batch = ArenaBatch(game, 64)
        _, acted, _ = batch.reset()
        killed = 0
        for obs, rewards, terminated, _, alive, infos in random_steps(batch, 60):
            going = infos["winner"] == -1
            assert not (terminated & ~acted).any()
            assert not rewards[~acted].any()
            np.testing.assert_array_equal(terminated[~going], acted[~going])
            np.testing.assert_array_equal(alive[going], (acted & ~terminated)[going])
            killed += int(terminated[going].sum())
            for team, its in batch.teams.items():
                assert not obs[team][~alive[:, list(its)]].any()
                if terminated.any():
                    final = infos["final_obs"][team][terminated[:, list(its)]]
                    assert final[:, 0, 4, 4].all()
            acted = alive
        assert killed > 20


def test_what_an_agent_sees() -> None:
    """From (5, 5): a wall above, a coin to the right, an ally two to the left, an opponent far below, a corner out."""
    batch = arena("pursuit", [(5, 5), (5, 3)], [(9, 5), (0, 0)], {(4, 5): WALL, (5, 6): COIN})
    seen = {name: set(map(tuple, np.argwhere(plane))) for name, plane in zip(THINGS, watch(batch, 0), strict=True)}
    assert seen["player"] == {(4, 4)}
    assert seen["wall"] == {(3, 4)}
    assert seen["coin"] == {(4, 5)}
    assert seen["ally"] == {(4, 2)}
    assert seen["opponent"] == {(8, 4)}, "the other prey is five cells away"
    assert seen["outside"] == set()
    assert len(seen["hunter"]) == 81
    prey = dict(zip(THINGS, watch(batch, 2), strict=True))
    assert not prey["hunter"].any()
    assert prey["opponent"][0, 4] == 1
    assert prey["outside"][5:].all()
    assert not prey["outside"][:5].any()


def watch(batch: ArenaBatch, slot: int) -> Any:
    """What one agent of a batch of one sees."""
    seen = batch.observe()[0]
    return np.concatenate([seen[team] for team in batch.teams], axis=1)[0, slot]


def test_sight_hides_what_is_further() -> None:
    batch = arena("gather", [(5, 5)], [(5, 8)], {(5, 7): COIN, (5, 4): WALL}, sight=2)
    obs = dict(zip(THINGS, watch(batch, 0), strict=True))
    assert obs["coin"][4, 6] == 1
    assert not obs["opponent"].any()
    assert not obs["hunter"].any()
    assert not any(plane[0].any() for plane in obs.values())


def test_walls_never_cut_the_board() -> None:
    batch = ArenaBatch("pursuit", 64, walls=0.15)
    batch.reset()
    for cells in batch.save_state()["cells"]:
        free = {(int(r), int(c)) for r, c in np.argwhere(cells != WALL)}
        assert len(free) < 100
        todo, found = [next(iter(free))], set()
        while todo:
            r, c = todo.pop()
            if (r, c) in free - found:
                found.add((r, c))
                todo += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        assert found == free


def test_a_seed_starts_over_and_none_goes_on() -> None:
    batch = ArenaBatch("gather", 2, seed=7)
    first = batch.reset()[0]["reds"]
    second = batch.reset()[0]["reds"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(batch.reset(7)[0]["reds"], first)
    with pytest.raises(GraftError, match="Seed -1 is not allowed"):
        batch.reset(-1)


def test_agents_may_share_a_cell() -> None:
    batch = arena("gather", [(5, 4), (5, 5)], [(9, 9)], {(0, 0): COIN})
    play(batch, RIGHT, NOOP, NOOP)
    assert batch.save_state()["place"][0, :2].tolist() == [[5, 5], [5, 5]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hunter": 2}, "Unknown keyword of Graft/Pursuit-v0 'hunter'.*Did you mean 'hunters'"),
        ({"coins": 3}, "Unknown keyword of Graft/Pursuit-v0 'coins'"),
        ({"hunters": 0}, "hunters=0 is not allowed; it is a number of agents from 1 to 8"),
        ({"prey": 9}, "prey=9 is not allowed"),
        ({"prey": [3, 2]}, r"prey=\[3, 2\] is not allowed"),
        ({"prey": [1, 2, 3]}, "is not allowed"),
        ({"prey": True}, "prey=True is not allowed"),
        ({"hunters": 2.0}, "hunters=2.0 is not allowed"),
        ({"max_steps": 5}, "max_steps=5 is not allowed; it is a whole number from 10 to 500"),
        ({"walls": 0.5}, "walls=0.5 is not allowed"),
        ({"autoreset_mode": "Disabled"}, "allowed: 'SameStep', 'NextStep'"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], text: str) -> None:
    with pytest.raises(GraftError, match=text):
        ArenaBatch("pursuit", **options)
