"""Snake: growth, turns, bites and borders, on states set up by hand and against a model of the body."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.game_states import batch, cells_of, place, play

from graft.envs.builtin.engine.game import ACT, DOWN, LEFT, NOOP, RIGHT, UP

BODY, COIN = 1, 2
AHEAD = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1)}
Cells = list[tuple[int, int]]


def snake(head: tuple[int, int], heading: int, tail: Cells, coins: Cells, **options: Any) -> Any:
    """A snake whose body is ``tail``, from the end of it to the cell behind the head; as long as it will be."""
    env = batch("Snake", **options)
    memo = np.zeros(102, np.int64)
    for steps, (row, column) in enumerate(tail, 1):
        memo[10 * row + column] = steps
    memo[100:] = heading, max(len(tail), 3)
    place(env, head, dict.fromkeys(tail, BODY) | dict.fromkeys(coins, COIN), memo=memo)
    return env


@pytest.mark.parametrize("action", [NOOP, ACT, RIGHT, LEFT])
def test_it_goes_on_without_a_turn_and_when_told_to_reverse(action: int) -> None:
    env = snake((5, 5), RIGHT, [(5, 2), (5, 3), (5, 4)], [])
    assert play(env, action) == ([5, 6], 0.0, False)


@pytest.mark.parametrize("heading", [UP, DOWN, LEFT, RIGHT])
def test_it_turns_to_either_side_but_never_back(heading: int) -> None:
    for action in AHEAD:
        env = snake((5, 5), heading, [], [])
        back = AHEAD[action] == tuple(-x for x in AHEAD[heading])
        row, column = AHEAD[heading if back else action]
        assert play(env, action)[0] == [5 + row, 5 + column]


def test_the_tail_follows() -> None:
    env = snake((5, 5), RIGHT, [(5, 2), (5, 3), (5, 4)], [])
    seen = []
    for action in [UP, LEFT, LEFT]:
        play(env, action)
        seen.append(cells_of(env, BODY))
    assert seen == [[(5, 3), (5, 4), (5, 5)], [(4, 5), (5, 4), (5, 5)], [(4, 4), (4, 5), (5, 5)]]


def test_it_grows_by_one_for_each_coin_and_stays_so_long() -> None:
    env = snake((5, 2), RIGHT, [], [(5, 6), (5, 7)])
    rewards, lengths = [], []
    for action in [*[NOOP] * 6, UP, LEFT, LEFT, LEFT, LEFT, LEFT]:
        if len(lengths) == 6:  # coins that have appeared go
            state = env.save_state()
            state["cells"][state["cells"] == COIN] = 0
            env.restore_state(state)
        rewards.append(play(env, action)[1])
        lengths.append(len(cells_of(env, BODY)))
    assert rewards[3:5] == [1.0, 1.0]
    assert lengths == [1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5]


def test_a_coin_gives_one_and_appears_elsewhere() -> None:
    env = snake((5, 5), RIGHT, [(5, 4)], [(5, 6)])
    assert play(env, NOOP) == ([5, 6], 1.0, False)
    (coin,) = cells_of(env, COIN)
    assert coin not in {(5, 4), (5, 5), (5, 6)}


def test_biting_itself_costs_one_and_ends() -> None:
    env = snake((5, 5), UP, [(4, 4), (4, 5), (4, 6), (5, 6), (6, 6), (6, 5)], [])
    assert play(env, NOOP)[1:] == (-1.0, True)


def test_the_cell_that_the_tail_leaves_is_free() -> None:
    env = snake((5, 5), UP, [(4, 5), (4, 6), (5, 6)], [])
    assert play(env, NOOP) == ([4, 5], 0.0, False)


@pytest.mark.parametrize(("head", "heading"), [((0, 5), UP), ((9, 5), DOWN), ((5, 0), LEFT), ((5, 9), RIGHT)])
def test_the_border_costs_one_and_ends(head: tuple[int, int], heading: int) -> None:
    assert play(snake(head, heading, [], []), NOOP)[1:] == (-1.0, True)


def test_begins_with_two_coins_and_the_longer_way_ahead() -> None:
    env = batch("Snake", 500)
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs.sum(axis=(2, 3)), np.tile([1, 0, 2], (500, 1)))
    state = env.save_state()
    assert state["player"].min() == 2
    assert state["player"].max() == 7
    np.testing.assert_array_equal(state["memo"][:, 100], np.where(state["player"][:, 1] < 5, RIGHT, LEFT))


@pytest.mark.parametrize("wrap", [False, True])
def test_long_play_agrees_with_a_list_of_the_places_passed(wrap: bool) -> None:
    """A snake that goes for the nearest coin; its body must be the last places of its head, as many as its length."""
    env = batch("Snake", seed=3, wrap=wrap)
    env.reset()
    rng = np.random.default_rng(0)
    passed, length, eaten, deaths, longest = [], 3, 0, 0, 0
    for _ in range(1_500):
        state = env.save_state()
        head = (int(state["player"][0, 0]), int(state["player"][0, 1]))
        heading = int(state["memo"][0, 100])
        coins = sorted(cells_of(env, COIN), key=lambda coin: abs(coin[0] - head[0]) + abs(coin[1] - head[1]))
        assert len(coins) == 2
        wanted = [a for a, (dr, dc) in AHEAD.items() if dr * (coins[0][0] - head[0]) + dc * (coins[0][1] - head[1]) > 0]
        action = int(rng.choice(wanted)) if rng.random() < 0.9 else int(rng.integers(6))
        back = AHEAD[heading][0] * -1, AHEAD[heading][1] * -1
        heading = action if action in AHEAD and AHEAD[action] != back else heading
        row, column = head[0] + AHEAD[heading][0], head[1] + AHEAD[heading][1]
        after = (row % 10, column % 10) if wrap else (row, column)
        eats = after in coins
        length += eats
        passed.append(head)
        bites = after in passed[-length:]
        leaves = not (0 <= after[0] < 10 and 0 <= after[1] < 10)
        _, rewards, terminated, truncated, _ = env.step(np.array([action]))
        assert bool(terminated[0]) == (bites or leaves)
        assert rewards[0] == (-1.0 if terminated[0] else float(eats))
        eaten, deaths = eaten + eats, deaths + int(terminated[0])
        if terminated[0] or truncated[0]:
            passed, length = [], 3
            continue
        assert cells_of(env, BODY) == sorted(passed[-length:])
        longest = max(longest, length)
    assert eaten > 100
    assert deaths > 0
    assert longest >= 10


def test_a_circle_is_truncated_after_200_steps() -> None:
    env = snake((5, 5), RIGHT, [], [])
    for step in range(1, 201):
        _, _, terminated, truncated, _ = env.step(np.array([[UP, LEFT, DOWN, RIGHT][step % 4]]))
        assert not terminated[0]
        assert bool(truncated[0]) == (step == 200)
