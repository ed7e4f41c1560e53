"""Agents of a team as rows of a batch: who is in play, who plays the others, seeds, saving, and what is refused."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.arena_states import by_team

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.mixture import mixture
from graft.envs.builtin.arena import pettingzoo_env
from graft.envs.builtin.arena.batch import ArenaBatch
from graft.envs.builtin.arena.game import ARENAS
from graft.envs.builtin.engine.render import FPS, SIDE
from graft.envs.core.random_actions import RandomActions, no_op
from graft.envs.core.schema import ActionSchema
from graft.envs.core.team_rows import TeamRows
from graft.envs.factory import check

PURSUIT, GATHER = "Graft/Pursuit-v0", "Graft/TeamGather-v0"
TASKS = [
    Task(PURSUIT),
    Task(PURSUIT, {"team": "prey", "hunters": 3, "prey": [1, 4]}),
    Task(PURSUIT, {"team": "all", "hunters": [1, 3], "prey": 2}),
    Task(GATHER, {"reds": [1, 4], "opponents": "still"}),
    Task(GATHER, {"team": "blues", "coins": 5}),
]
NAMED = [pytest.param(task, id=str(task)) for task in TASKS]


def rows(task: Task, count: int = 24, seed: int = 0) -> Any:
    env = envs.make(task, count, seed)
    env.action_space.seed(seed)
    return env


def played(env: Any, steps: int, seed: int = 0) -> list[Any]:
    draw = np.random.default_rng(seed)
    return [env.step(draw.integers(0, 6, env.num_envs)) for _ in range(steps)]


def assert_same(a: Any, b: Any) -> None:
    """Everything that two steps give."""
    for x, y in zip(a[:4], b[:4], strict=True):
        np.testing.assert_array_equal(x, y)
    assert a[4].keys() == b[4].keys()
    for name in a[4]:
        np.testing.assert_array_equal(a[4][name], b[4][name])


@pytest.mark.parametrize("task", NAMED)
def test_rows_out_of_play_are_silent_and_those_in_play_end_once(task: Task) -> None:
    env = rows(task)
    obs, infos = env.reset()
    acted, games, deaths = infos["alive"], 0, 0
    count = len(env.slots)
    for _ in range(300):
        assert obs.shape == env.observation_space.shape
        assert not obs[~acted].any()
        assert obs[acted][:, 0, 4, 4].all()
        obs, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        assert not truncated.any()
        assert not terminated[~acted].any()
        assert not rewards[~acted].any()
        over = np.repeat(infos["winner"] != -1, count)[: env.num_envs]
        np.testing.assert_array_equal(terminated[over], acted[over])
        np.testing.assert_array_equal(infos["alive"][~over], (acted & ~terminated)[~over])
        if terminated.any():
            np.testing.assert_array_equal(infos["_final_obs"], terminated)
            assert infos["final_obs"][terminated][:, 0, 4, 4].all()
        games, deaths = games + int((infos["winner"] != -1).sum()), deaths + int(terminated[~over].sum())
        acted = infos["alive"]
    assert games > 10
    assert deaths > 5 or task.kwargs.get("team") is None, "hunters live on, and so do agents whose opponents are still"


def test_row_r_is_slot_r_modulo_k_of_environment_r_div_k() -> None:
    env, plain = (
        rows(Task(PURSUIT, {"team": "prey", "hunters": 2, "prey": 3}), 12, 5),
        ArenaBatch("pursuit", 4, 5, hunters=2, prey=3),
    )
    obs, infos = env.reset()
    shown, alive, _ = plain.reset()
    np.testing.assert_array_equal(obs, shown["prey"].reshape(obs.shape))
    np.testing.assert_array_equal(infos["alive"], alive[:, 2:].reshape(-1))
    env.opponents = "still"
    actions = np.arange(12) % 6
    both = {"hunters": np.zeros((4, 2), np.int64), "prey": actions.reshape(4, 3)}
    for _ in range(30):
        mine, theirs = env.step(actions), plain.step(both)
        np.testing.assert_array_equal(mine[0], theirs[0]["prey"].reshape(obs.shape))
        np.testing.assert_array_equal(mine[1], theirs[1][:, 2:].reshape(-1))
        np.testing.assert_array_equal(mine[2], theirs[2][:, 2:].reshape(-1))
        np.testing.assert_array_equal(mine[4]["winner"], theirs[5]["winner"])


def test_team_all_shows_every_agent_of_both_teams() -> None:
    env, plain = rows(Task(GATHER, {"team": "all"}), 12, 3), ArenaBatch("gather", 2, 3)
    shown = plain.reset()[0]
    both = np.concatenate([shown["reds"], shown["blues"]], axis=1)
    np.testing.assert_array_equal(env.reset()[0], both.reshape(12, *both.shape[2:]))
    draw = np.random.default_rng(0)
    for _ in range(60):
        actions = draw.integers(0, 6, 12)
        obs, rewards, *_ = env.step(actions)
        theirs = plain.step(by_team(plain, actions.reshape(2, 6)))
        np.testing.assert_array_equal(rewards, theirs[1].reshape(-1))
        both = np.concatenate([theirs[0]["reds"], theirs[0]["blues"]], axis=1)
        np.testing.assert_array_equal(obs, both.reshape(obs.shape))


def test_surplus_rows_are_played_and_not_shown() -> None:
    """Seven rows of three agents: two rows of the last environment are not ours."""
    task = Task(PURSUIT, {"hunters": 3, "prey": 2})
    env, whole = rows(task, 7, 2), rows(task, 9, 2)
    assert (env.num_envs, env.squad.num_envs) == (7, 3)
    np.testing.assert_array_equal(env.reset()[0], whole.reset()[0][:7])
    moves = set()
    for _ in range(30):
        obs, rewards, *_, infos = env.step(np.zeros(7, np.int64))
        assert len(obs) == len(rewards) == len(infos["alive"]) == 7
        assert len(infos["winner"]) == 3
        moves.add(env.squad.save_state()["place"][2, 1:3].tobytes())
    assert len(moves) > 10
    check(task)
    assert envs.schemas(task).observation.shape == (7, 9, 9)


def test_surplus_rows_change_nothing_for_the_other_environments() -> None:
    task = Task(PURSUIT, {"hunters": 3, "prey": 2})
    env, whole = rows(task, 7, 2), rows(task, 9, 2)
    env.reset()
    whole.reset()
    for _ in range(40):
        mine, theirs = env.step(np.zeros(7, np.int64)), whole.step(np.zeros(9, np.int64))
        np.testing.assert_array_equal(mine[0][:6], theirs[0][:6])


def test_rows_out_of_play_learn_when_a_game_is_over() -> None:
    parts = [
        Task(PURSUIT, {"team": "prey", "prey": [1, 3]}),
        Task(GATHER),
        Task("Graft/Hunt-v0", {"view": "ego", "radius": 4, "channels": "names"}),
    ]
    env, mixed = rows(parts[0], 6), envs.make(mixture(parts), 18, 0)
    env.reset()
    mixed.reset()
    for _ in range(120):
        infos = env.step(np.zeros(6, np.int64))[4]
        np.testing.assert_array_equal(infos["over"], np.repeat(infos["winner"] != -1, 3))
        _, _, terminated, truncated, infos = mixed.step(np.zeros(18, np.int64))
        np.testing.assert_array_equal(infos["over"][2::3], (terminated | truncated)[2::3])
        assert len(set(infos["over"][:9:3])) == 1


def test_a_policy_can_play_the_others() -> None:
    env = rows(Task(PURSUIT, {"hunters": 2, "prey": [1, 3]}), 8)
    asked = []

    def policy(obs: Any, alive: Any) -> Any:
        asked.append((obs, alive))
        return np.full(alive.shape, 1)

    env.opponents = policy
    env.reset()
    for _ in range(20):
        env.step(np.zeros(8, np.int64))
    for obs, alive in asked:
        assert obs.shape == (4, 3, 7, 9, 9)
        assert alive.shape == (4, 3)
        np.testing.assert_array_equal(obs[:, :, 0, 4, 4], alive)
    lasting = env.squad.save_state()
    rowwise = lasting["place"][:, 2:, 0][lasting["alive"][:, 2:] & (lasting["clock"] > 10)[:, None]]
    assert rowwise.size == 0 or np.median(rowwise) < 5, "the prey went up"


def test_still_opponents_stay_where_they_are() -> None:
    env = rows(Task(GATHER, {"opponents": "still", "fights": False}), 6)
    env.reset()
    before = env.squad.save_state()
    played(env, 5)
    after = env.squad.save_state()
    assert (after["clock"] == 5).all()
    np.testing.assert_array_equal(after["place"][:, 3:], before["place"][:, 3:])
    assert (after["place"][:, :3] != before["place"][:, :3]).any()


@pytest.mark.parametrize("task", NAMED)
def test_restored_state_replays_the_future_random_opponents_included(task: Task) -> None:
    env, elsewhere = rows(task), rows(task, seed=50)
    env.reset()
    played(env, 60)
    saved = env.save_state()
    first = played(env, 60, 1)
    elsewhere.restore_state(saved)
    for a, b in zip(first, played(elsewhere, 60, 1), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("task", NAMED)
def test_same_seed_same_play_and_another_seed_another(task: Task) -> None:
    a, b, other = rows(task), rows(task), rows(task, seed=9)
    np.testing.assert_array_equal(a.reset()[0], b.reset()[0])
    assert not np.array_equal(a.reset()[0], other.reset()[0])
    b.reset()
    for x, y in zip(played(a, 80), played(b, 80), strict=True):
        assert_same(x, y)
    np.testing.assert_array_equal(a.reset(seed=4)[0], b.reset(seed=4)[0])


def test_environments_of_one_seed_play_alike_in_any_batch() -> None:
    task = Task(PURSUIT, {"hunters": 3, "prey": 3})
    together, alone = rows(task, 12, 4), rows(task, 3, 6)
    np.testing.assert_array_equal(together.reset()[0][6:9], alone.reset()[0])
    draw = np.random.default_rng(0)
    for _ in range(150):
        actions = draw.integers(0, 6, 12)
        mine, theirs = alone.step(actions[6:9]), together.step(actions)
        for x, y in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(x, y[6:9])


def test_a_mixture_passes_on_who_is_in_play() -> None:
    parts = [Task(GATHER, {"reds": [1, 3]}), Task(PURSUIT, {"team": "prey", "prey": 3})]
    env = envs.make(mixture(parts), 12, 0)
    alone = [envs.make(part, 6, k) for k, part in enumerate(parts)]
    alive = env.reset()[1]["alive"]
    starts = [part.reset()[1]["alive"] for part in alone]
    for _ in range(60):
        np.testing.assert_array_equal(alive[0::2], starts[0])
        np.testing.assert_array_equal(alive[1::2], starts[1])
        alive = env.step(np.full(12, 2))[4]["alive"]
        starts = [part.step(np.full(6, 2))[4]["alive"] for part in alone]
    assert "alive" not in envs.make(mixture(["Graft/Hunt-v0", "Graft/Gather-v0"]), 4, 0).reset()[1]


def test_every_game_and_team_sees_the_same_so_that_encoders_transfer() -> None:
    shown = {
        envs.schemas(Task(a.id, {"team": t}))
        for a in map(ARENAS.__getitem__, ARENAS)
        for t in (*(team.name for team in a.teams), "all")
    }
    assert len(shown) == 1


def test_dice_are_even_and_stay_within_a_box() -> None:
    dice = RandomActions(2000)
    dice.seed(3)
    drawn = dice.actions(ActionSchema("discrete", ("a", "b", "c")), 3)
    assert drawn.shape == (2000, 3)
    assert np.abs(np.bincount(drawn.reshape(-1)) / 6000 - 1 / 3).max() < 0.03
    box = ActionSchema("box", ("x", "y"), (-1.0, 0.5), (1.0, 2.0))
    reals = dice.actions(box, 4)
    assert reals.shape == (2000, 4, 2)
    assert (reals >= [-1.0, 0.5]).all()
    assert (reals <= [1.0, 2.0]).all()
    assert np.abs(reals.mean(axis=(0, 1)) - [0.0, 1.25]).max() < 0.05
    assert no_op(box, (2, 1)).tolist() == [[[0.0, 0.5]], [[0.0, 0.5]]]


def test_a_picture_and_a_text_of_each_environment_as_the_pettingzoo_form_draws_it() -> None:
    options = {"hunters": 3, "prey": 2}
    single = pettingzoo_env.parallel_env("pursuit", "ansi", **options)
    single.reset(seed=4)
    for mode in ("rgb_array", "ansi"):
        env = envs.make(Task(PURSUIT, options), 7, 2, render_mode=mode)
        with pytest.raises(GraftError, match="before the first reset"):
            env.render()
        env.reset()
        shown: Any = env.render()
        assert len(shown) == 3
        assert env.render_mode == mode
        assert env.metadata["render_fps"] == FPS
        if mode == "ansi":
            assert shown[2] == single.render()
            assert [shown[0].count(glyph) for glyph in "ap"] == [3, 2]
        else:
            assert all(picture.shape == (SIDE, SIDE, 3) for picture in shown)


@pytest.mark.parametrize("task", NAMED)
def test_rendering_changes_nothing_and_shows_how_games_end(task: Task) -> None:
    watched, alone = envs.make(task, 24, 3, render_mode="ansi"), rows(task, 24, 3)
    np.testing.assert_array_equal(watched.reset()[0], alone.reset()[0])
    ends = 0
    for mine, theirs in zip(played(watched, 200), played(alone, 200), strict=True):
        over = mine[4]["winner"] != -1
        shown = mine[4].pop("final_frame", (None,) * len(over))
        assert [picture is not None for picture in shown] == over.tolist()
        assert_same(mine, theirs)
        ends += over.sum()
    assert ends


def test_the_last_picture_is_that_of_the_pettingzoo_form() -> None:
    """Which has no autoreset: the board stays as it was when the game was decided."""
    options = {"hunters": 3, "prey": 2, "max_steps": 30}
    env, single = (
        envs.make(Task(PURSUIT, {**options, "opponents": "still"}), 3, 5, render_mode="ansi"),
        pettingzoo_env.parallel_env("pursuit", "ansi", **options),
    )
    env.reset()
    single.reset(seed=5)
    draw = np.random.default_rng(0)
    while single.agents:
        actions = draw.integers(0, 6, 3)
        infos = env.step(actions)[4]
        single.step({f"hunter_{k}": actions[k] for k in range(3)})
    assert infos["winner"][0] != -1
    assert infos["final_frame"] == (single.render(),)
    assert env.render() != infos["final_frame"]


@pytest.mark.skipif(find_spec("mpe2") is None, reason="mpe2 is missing")
def test_environments_of_pettingzoo_draw_themselves() -> None:
    task = Task("pettingzoo:mpe2.simple_tag_v3", {"team": "adversary", "max_cycles": 3})
    env, alone = (envs.make(task, 6, 0, render_mode=mode) for mode in ("rgb_array", None))
    np.testing.assert_array_equal(env.reset()[0], alone.reset()[0])
    assert env.metadata["render_fps"] == 10
    for step in range(7):
        mine, theirs = env.step(np.arange(6) % 5), alone.step(np.arange(6) % 5)
        shown = mine[4].pop("final_frame", ())
        assert [picture.shape for picture in shown] == [(700, 700, 3)] * 2 * (step in (2, 5))
        assert_same(mine, theirs)
    first, second = env.render()
    assert not np.array_equal(first, second)
    with pytest.raises(GraftError, match="cannot be drawn as ansi; it offers: human, rgb_array"):
        envs.make(task, 6, 0, render_mode="ansi")


def test_rows_without_a_render_mode_show_nothing() -> None:
    env = rows(Task(PURSUIT))
    env.reset()
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None
    with pytest.raises(GraftError, match="Unknown render_mode of Graft/Pursuit-v0 'human'"):
        envs.make(Task(PURSUIT), 4, 0, render_mode="human")


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (Task(PURSUIT, {"team": "hunter"}), "Unknown team of Graft/Pursuit-v0 'hunter'.*Did you mean 'hunters'"),
        (Task(PURSUIT, {"opponents": "randon"}), "Unknown rule for opponents 'randon'.*Did you mean 'random'"),
        (Task(PURSUIT, {"opponents": 3}), "opponents=3 is not allowed"),
        (Task(PURSUIT, {"prays": 3}), "Unknown keyword of Graft/Pursuit-v0 'prays'"),
        (Task(PURSUIT, {"prey": [0, 3]}), r"prey=\[0, 3\] is not allowed"),
        (Task("Graft/Persuit-v0"), "Unknown task 'Graft/Persuit-v0'.*Did you mean 'Graft/Pursuit-v0'"),
        (Task("Graft/Pursuit-v02"), "Unknown task 'Graft/Pursuit-v02'.*Did you mean 'Graft/Pursuit-v0'"),
    ],
)
def test_what_is_refused(task: Task, text: str) -> None:
    with pytest.raises(GraftError, match=text):
        envs.make(task, 4, 0)


def test_what_a_batch_refuses() -> None:
    with pytest.raises(GraftError, match="same-step autoreset alone, not 'NextStep'"):
        envs.make(Task(PURSUIT), 4, 0, AutoresetMode.NEXT_STEP)
    env = rows(Task(GATHER, {"team": "all"}), 12)
    env.reset()
    with pytest.raises(GraftError, match="Actions have shape"):
        env.step(np.zeros(11, np.int64))
    with pytest.raises(GraftError, match="here these are: none"):
        env.opponents = lambda obs, alive: alive
    with pytest.raises(GraftError, match="give one number"):
        env.reset(seed=list(range(12)))
    with pytest.raises(GraftError, match="Seed -1 is not allowed"):
        env.reset(seed=-1)
    with pytest.raises(GraftError, match="need 3 environments, not 2"):
        TeamRows(ArenaBatch("gather", 2), "reds", 7)
    with pytest.raises(AttributeError):
        _ = env.nothing
