"""Generated games: rules by hand, what is shown is what happens, and what is banned never appears."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.game_states import batch, board, cells_of, place, play

from graft.envs import GraftError
from graft.envs.builtin.engine.game import ACT, DOWN, GAMES, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.mechanics import MOVEMENTS, TOUCHES
from graft.envs.builtin.games import generated as rules

NAMES = GAMES[rules.ID].planes.names


def game(movement: str, touch: str, control: str = "four_ways", **settings: Any) -> Any:
    """A game with one kind of thing, code 1, or two with keys; rates and amounts are as drawn."""
    return batch("Generated", controls=control, movements=movement, touches=touch, kinds=1, **settings)


def place_thing(env: Any, player: tuple[int, int], cells: dict[tuple[int, int], int], **changed: int) -> None:
    """A board by hand; ``changed`` are numbers of the memo, of kind 0 where they are rules. Nothing enters or walks."""
    env.reset()
    memo = env.save_state()["memo"][0]
    memo[[rules.KIND + rules.RATE, rules.KIND + rules.ROAD, rules.COUNT]] = 0
    for name, value in changed.items():
        memo[getattr(rules, name) + (rules.KIND if name in ("PACE", "SIDE", "KEEN", "RATE") else 0)] = value
    place(env, player, cells, memo=memo)


def walker(env: Any, at: tuple[int, int], direction: int = UP) -> None:
    """The thing at ``at`` is one that walks."""
    state = env.save_state()
    state["movers"][:, 0] = [*at, direction]
    state["memo"][:, rules.COUNT] = 1
    env.restore_state(state)


@pytest.mark.parametrize(
    ("movement", "side", "to"),
    [("falling", 0, (5, 4)), ("rising", 0, (3, 4)), ("sideways", LEFT, (4, 3)), ("sideways", RIGHT, (4, 5))],
)
@pytest.mark.parametrize(("pace", "steps"), [(rules.SLOW, 0.5), (rules.USUAL, 1), (rules.FAST, 2)])
def test_streams_move_as_they_are_shown(movement: str, side: int, to: Any, pace: int, steps: float) -> None:
    env = game(movement, "deadly")
    place_thing(env, (9, 9), {(4, 4): 1}, PACE=pace, SIDE=side)
    for _ in range(2):
        env.step(np.array([NOOP]))
    assert cells_of(env, 1) == [tuple(np.array([4, 4]) + round(2 * steps) * (np.array(to) - 4))]


def test_what_falls_and_kills_kills() -> None:
    env = game("falling", "deadly")
    place_thing(env, (5, 5), {(3, 5): 1}, PACE=rules.USUAL)
    assert play(env, NOOP)[1:] == (0.1, False)
    assert play(env, NOOP)[1:] == (-1.0, True)


def test_a_pickup_rewards_and_appears_elsewhere() -> None:
    env = game("still", "pickup")
    place_thing(env, (5, 5), {(5, 6): 1})
    assert play(env, RIGHT) == ([5, 6], 1.0, False)
    (where,) = cells_of(env, 1)
    assert where != (5, 6)


def test_what_is_solid_keeps_the_player_out_and_what_is_pushable_moves_on() -> None:
    env = game("still", "solid")
    place_thing(env, (5, 5), {(5, 6): 1})
    assert play(env, RIGHT)[0] == [5, 5]
    env = game("still", "pushable")
    place_thing(env, (5, 5), {(5, 6): 1, (5, 9): 1})
    assert play(env, RIGHT)[0] == [5, 6]
    assert cells_of(env, 1) == [(5, 7), (5, 9)]
    assert play(env, RIGHT)[0] == [5, 7]
    assert play(env, RIGHT)[0] == [5, 7]  # there is something behind it


def test_a_door_opens_for_who_has_the_key() -> None:
    env = game("still", "door")
    key = rules.KEYS + 1
    place_thing(env, (5, 5), {(5, 6): 1, (4, 5): key})
    assert play(env, RIGHT) == ([5, 5], 0.0, False)
    assert play(env, UP) == ([4, 5], 0.5, False)
    assert cells_of(env, key) == []
    play(env, DOWN)
    assert play(env, RIGHT) == ([5, 6], 0.5, False)
    assert len(cells_of(env, key)) == len(cells_of(env, 1)) == 1  # others, elsewhere


def test_a_goal_leads_to_another_board_with_the_same_rules() -> None:
    env = game("still", "goal")
    place_thing(env, (5, 5), {(5, 6): 1})
    assert play(env, RIGHT)[1:] == (1.0, False)
    assert len(cells_of(env, 1)) == 1


def test_targets_are_shot() -> None:
    env = game("falling", "target", "sideways")
    place_thing(env, (9, 5), {(4, 5): 1}, PACE=rules.SLOW)
    rewards = [play(env, ACT)[1], *(play(env, NOOP)[1] for _ in range(3))]
    assert sum(rewards) == 1.0
    assert cells_of(env, 1) == []
    place_thing(env, (9, 5), {(9, 1): 1}, PACE=rules.USUAL)
    assert play(env, NOOP)[1] == -0.5  # it has landed


@pytest.mark.parametrize(("movement", "nearer"), [("chasing", True), ("fleeing", False)])
def test_what_chases_comes_nearer_and_what_flees_goes_away(movement: str, nearer: bool) -> None:
    env = game(movement, "solid")
    place_thing(env, (5, 1), {(5, 5): 1}, KEEN=100, PACE=rules.USUAL)
    walker(env, (5, 5))
    play(env, NOOP)
    assert cells_of(env, 1) == [(5, 4 if nearer else 6)]


def test_a_patrol_turns_round() -> None:
    env = game("patrolling", "solid")
    place_thing(env, (9, 9), {(1, 5): 1}, PACE=rules.USUAL)
    walker(env, (1, 5))
    rows = []
    for _ in range(5):
        play(env, NOOP)
        rows.append(cells_of(env, 1)[0][0])
    assert rows == [0, 0, 1, 2, 3]


def test_jumps_rise_and_fall_and_ledges_hold() -> None:
    env = game("still", "support", "jumps")
    ground = {(9, c): rules.GROUND for c in range(10)}
    place_thing(env, (8, 5), {**ground, (7, 4): 1})
    assert [play(env, UP)[0][0] for _ in range(3)] == [7, 6, 5]
    assert play(env, LEFT)[0] == [6, 4]
    assert play(env, NOOP)[0] == [6, 4]


def test_who_is_headed_somewhere_goes_on_and_turns() -> None:
    env = game("still", "solid", "heading")
    place_thing(env, (5, 5), {}, FACING=RIGHT)
    assert [play(env, a)[0] for a in (NOOP, LEFT, UP, NOOP)] == [[5, 6], [5, 7], [4, 7], [3, 7]]
    shown = env.step(np.array([NOOP]))[0][0]
    assert np.argwhere(shown[NAMES.index("is_direction")]).tolist() == [[1, 7]]


def test_wrap_joins_opposite_borders() -> None:
    for wrap, end in ((False, [5, 9]), (True, [5, 0])):
        env = game("still", "solid", wrap=wrap)
        place_thing(env, (5, 9), {})
        assert play(env, RIGHT)[0] == end


def combinations(**settings: Any) -> set[str]:
    """What things are in all rules that can be drawn."""
    kinds = GAMES[rules.ID].resolve(settings).settings.table[:, rules.KIND :].reshape(-1, rules.KINDS, rules.WIDTH)
    drawn = kinds[:, : rules.KEYS][kinds[:, : rules.KEYS, rules.TOUCH] >= 0]
    return {f"{MOVEMENTS[m]}+{TOUCHES[t]}" for m, t in drawn[:, : rules.TOUCH + 1]}


def test_a_banned_combination_never_appears_and_others_do() -> None:
    """Neither in the rules nor on the boards of many episodes."""
    ban = ["falling+deadly", "chasing+deadly", "falling+target"]
    everything = combinations()
    assert set(ban) <= everything
    assert combinations(ban=ban) == everything - set(ban)
    assert combinations(movements=["still", "rising"], touches="pickup") == {"still+pickup", "rising+pickup"}
    env = batch("Generated", 300, ban=ban)
    planes = [env.reset()[0], *(env.step(np.full(300, NOOP))[0] for _ in range(20))]
    seen = np.concatenate(planes)
    assert (seen[:, NAMES.index("is_deadly")] & seen[:, NAMES.index("is_rising")]).any()
    assert not (seen[:, NAMES.index("is_deadly")] & seen[:, NAMES.index("is_falling")]).any()


def test_the_player_is_safe_at_the_start_and_there_is_something_to_play_for() -> None:
    env = batch("Generated", 1000)
    planes, _ = env.reset()
    deadly = planes[:, NAMES.index("is_deadly")]
    rows, columns = np.moveaxis(np.argwhere(planes[:, 0])[:, 1:], 1, 0)
    for dr, dc in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
        r, c = np.clip(rows + dr, 0, 9), np.clip(columns + dc, 0, 9)
        assert not deadly[np.arange(1000), r, c].any()
    kinds = env.save_state()["memo"]
    for memo in kinds:
        own = memo[rules.KIND :].reshape(rules.KINDS, rules.WIDTH)[:, : rules.TOUCH + 1]
        own = own[own[:, 1] >= 0]
        moving = (own[:, 1] == rules.DEADLY) & ((own[:, 0] != rules.STILL) | (memo[rules.CONTROL] == rules.HEADING))
        assert np.isin(own[:, 1], rules.GAINS).any() or moving.any()


def test_what_is_shown_falling_alone_has_come_down_by_the_next_step() -> None:
    """Of the first step of many games: every falling thing that is neither slow nor fast and whose way is free."""
    env = batch("Generated", 1000)
    before = dict(zip(NAMES, np.moveaxis(env.reset()[0], 1, 0).astype(bool), strict=True))
    obs, *_, infos = env.step(np.full(1000, NOOP))
    after = infos.get("final_obs", obs) if infos else obs
    ended = infos.get("_final_obs", np.zeros(1000, bool))
    obs = np.where(ended[:, None, None, None], after, obs)
    later = dict(zip(NAMES, np.moveaxis(obs, 1, 0).astype(bool), strict=True))
    anything = np.logical_or.reduce([before[name] for name in NAMES])
    goes = (before["is_falling"] & ~before["is_slow"] & ~before["is_fast"])[:, :-1] & ~anything[:, 1:]
    calm = ~(before["is_fast"] | before["is_mobile"] & ~before["is_falling"] | before["is_slow"]).any((1, 2))
    goes &= (calm & (before["player"] == later["player"]).all((1, 2)))[:, None, None]
    assert goes.sum() > 100
    assert later["is_falling"][:, 1:][goes].all()


def test_the_schema_is_the_same_for_all_rules() -> None:
    for channels in ("names", "attributes", "both"):
        names = batch("Generated", view="ego", channels=channels).observation_schema.names
        assert names[1:] == (*NAMES[1:], "is_outside" if channels == "attributes" else "outside") or channels == "both"
        assert set(NAMES[1:]) < set(names)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (
            {"movements": ["falling", "risng"]},
            "movements=.* is not allowed; it is all, or some of still.*mean 'rising'",
        ),
        ({"ban": "falling+dedly"}, "ban='falling.dedly' is not allowed; it is none, or some of .*'falling.deadly'"),
        ({"touches": []}, "touches=.. is not allowed; it is all, or some of deadly"),
        ({"movements": "falling", "touches": "deadly", "ban": "falling+deadly"}, "leave no thing to draw"),
    ],
)
def test_errors_say_what_is_allowed(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(GraftError, match=text):
        batch("Generated", **kwargs)


def test_boards_differ_from_game_to_game() -> None:
    env = batch("Generated", 64)
    env.reset()
    assert len({cells.tobytes() for cells in board(env)}) > 60


def test_the_learnability_of_rules_by_hand() -> None:
    state = batch("Generated", sampling="learnability")._state
    functions: Any = rules  # compiled code alone can call them as they are
    note_return, learnability = functions.note_return.py_func, functions.learnability.py_func
    for returns, expected in (([], 0.25), ([1, 1], 0.25), ([1, 1, 1], 0), ([0, 4, 4, 4], 3 / 16), ([0, 1, 2], 0.25)):
        state.scores[0] = 0
        for earned in returns:
            state.memo[0, rules.SET], state.memo[0, rules.TOTAL] = 0, 100 * earned
            note_return(state, 0)
        assert learnability(state, 0) == pytest.approx(expected)
    state.scores[0] = 0
    for earned in [*[0.0] * 50, *[10.0] * 50]:  # what was long ago is forgotten
        state.memo[0, rules.TOTAL] = 100 * earned
        note_return(state, 0)
    assert state.scores[0, rules.MEAN] > 9.9


def _sets_played(env: Any, steps: int) -> list[int]:
    """The sets of rules of episodes that began while random actions were played."""
    dice, found = np.random.default_rng(0), []
    for _ in range(steps):
        clock = env._state.clock.copy()
        env.step(dice.integers(0, 6, env.num_envs))
        found += env._state.memo[env._state.clock < clock, rules.SET].tolist()
    return found


def test_rules_that_teach_are_played_more_often() -> None:
    """Those whose returns go half of the way from their lowest to their highest."""
    env = batch("Generated", num_envs=64, sampling="learnability")
    count = len(env._settings.table)
    env.reset(seed=0)
    env._state.scores[:] = [100, 0, 0, 1]
    teaches = np.arange(count) < count // 10
    env._state.scores[teaches, rules.MEAN] = 0.5
    share = float(np.mean(teaches[_sets_played(env, 40)]))
    assert 0.2 < share < 0.6  # (0.1 + 1 - 0.9^8) / 2 = 0.33 at first


def test_scores_go_on_where_they_were_saved() -> None:
    dice, one, other = (
        np.random.default_rng(1),
        *(batch("Generated", num_envs=8, sampling="learnability") for _ in "ab"),
    )
    one.reset(seed=3)
    for _ in range(60):
        one.step(dice.integers(0, 6, 8))
    assert one._state.scores[:, rules.PLAYED].sum() > 0
    other.restore_state(one.save_state())
    for _ in range(60):
        actions = dice.integers(0, 6, 8)
        mine, theirs = one.step(actions), other.step(actions)
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_learnability_has_no_levels() -> None:
    with pytest.raises(GraftError, match="draws no levels"):
        batch("Generated", sampling="learnability", levels=(0, 50))


def test_a_seed_gives_the_same_games_whatever_was_played_before() -> None:
    env, dice = batch("Generated", num_envs=16, sampling="learnability"), np.random.default_rng(2)
    env._state.scores[:] = [100, 0, 0, 1]  # hopeless
    env._state.scores[:99, rules.MEAN] = 0.5
    first, _ = env.reset(seed=5)
    for _ in range(100):
        env.step(dice.integers(0, 6, 16))
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    np.testing.assert_array_equal(batch("Generated", num_envs=16, sampling="learnability").reset(seed=5)[0], first)
