"""Rendering of the built-in games: Gymnasium's contract, the true board in its palette, and an unchanged game."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from support.game_states import batch, place

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.builtin.engine.entities import ENTITIES, PALETTES, SPRITE
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.render import FPS, MODES, SIDE
from graft.envs.builtin.engine.state import COIN, HAZARD, SIZE, WALL
from graft.envs.core.union import union

CELLS = {(0, 0): WALL, (3, 4): COIN, (9, 9): HAZARD}
BARE = "." * SIZE
TEXT = "\n".join(["#.........", BARE, BARE, "....o.....", BARE, BARE, "..@.......", BARE, BARE, ".........x"])


def hand_made(render_mode: str | None, **options: Any) -> Any:
    """A Gather with the player in (6, 2) and the things of `CELLS`."""
    env = envs.make(Task("Graft/Gather-v0", options), 2, 0, render_mode=render_mode)
    place(env, (6, 2), CELLS)
    return env


@pytest.mark.parametrize("game", list(GAMES))
def test_gymnasium_check_env_with_rendering(game: str) -> None:
    """Warnings are errors here."""
    env = gym.make(game, render_mode="rgb_array")
    assert env.metadata["render_modes"] == list(MODES)
    assert env.metadata["render_fps"] == FPS
    check_env(env.unwrapped)
    env.reset(seed=0)
    frame: Any = env.render()
    assert frame.shape == (SIDE, SIDE, 3)
    assert frame.dtype == np.uint8


@pytest.mark.parametrize("palette", list(PALETTES))
def test_each_thing_is_drawn_in_its_place_in_its_colour_and_shape(palette: str) -> None:
    frames = hand_made("rgb_array", palette=palette).render()
    assert len(frames) == 2
    frame, background = frames[0], np.array(PALETTES[palette][""])
    scale = SIDE // 64
    margin, cell = 2 * scale, SPRITE * scale
    expected = np.tile(background.astype(np.uint8), (SIDE, SIDE, 1))
    names = {WALL: "wall", COIN: "coin", HAZARD: "hazard"}
    for (row, column), name in {(6, 2): "player", **{at: names[code] for at, code in CELLS.items()}}.items():
        top, left = margin + row * cell, margin + column * cell
        mask = np.kron(ENTITIES[name].mask, np.ones((scale, scale))) > 0
        expected[top : top + cell, left : left + cell][mask] = PALETTES[palette][name]
    np.testing.assert_array_equal(frame, expected)


def test_text_has_a_line_a_row_and_a_glyph_a_cell() -> None:
    assert hand_made("ansi").render() == (TEXT, TEXT)


@pytest.mark.parametrize(
    "options",
    [{"view": "features"}, {"view": "ego"}, {"view": "pixels"}, {"fog": 1}, {"mirror": True}, {"noise": 0.2}],
)
def test_the_true_board_is_shown_whatever_the_agent_sees(options: dict[str, Any]) -> None:
    assert hand_made("ansi", **options).render() == (TEXT, TEXT)
    np.testing.assert_array_equal(hand_made("rgb_array", **options).render(), hand_made("rgb_array").render())


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
@pytest.mark.parametrize("game", list(GAMES))
def test_rendering_changes_nothing(game: str, mode: AutoresetMode) -> None:
    task = Task(game, {"slip": 0.2, "noise": 0.1, "levels": [0, 3]})
    watched, alone = (envs.make(task, 3, 5, mode, render_mode=m) for m in ("rgb_array", None))
    for env in (watched, alone):
        env.reset()
    actions = np.random.default_rng(0).integers(0, 6, (260, 3))
    for step, chosen in enumerate(actions):
        if step % 5 == 0:
            watched.render()
        for seen, other in zip(watched.step(chosen)[:4], alone.step(chosen)[:4], strict=True):
            np.testing.assert_array_equal(seen, other)
    before = watched.save_state()  # type: ignore[attr-defined]
    watched.render()
    after = watched.save_state()  # type: ignore[attr-defined]
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_next_step_autoreset_shows_the_end_and_same_step_the_beginning() -> None:
    last, fresh = (
        envs.make(Task("Graft/Gather-v0"), 1, 0, mode, render_mode="ansi")
        for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
    )
    for env in (last, fresh):
        place(env, (6, 2), {(6, 3): HAZARD})
        assert env.step(np.array([4]))[2][0]
    assert "@" in (last.render() or ("",))[0]
    assert (last.render() or ("",))[0].count(".") == 99
    assert (fresh.render() or ("",))[0].count(".") < 90


def test_single_and_vector_environments_show_the_same() -> None:
    single = gym.make("Graft/Hunt-v0", render_mode="rgb_array", palette="night")
    vector = gym.make_vec("Graft/Hunt-v0", num_envs=2, render_mode="rgb_array", palette="night")
    single.reset(seed=4)
    vector.reset(seed=3)
    frames = vector.render()
    assert isinstance(frames, tuple)
    np.testing.assert_array_equal(single.render(), frames[1])  # type: ignore[arg-type]


def test_an_unknown_mode_is_refused_and_no_mode_gives_a_warning() -> None:
    with pytest.raises(GraftError, match=r"Unknown render_mode of Graft/Maze-v0 'rgb'; allowed: ansi, rgb_array"):
        envs.make(Task("Graft/Maze-v0"), 1, 0, render_mode="rgb")
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert hand_made(None).render() is None
    with pytest.raises(GraftError, match="before the first reset"):
        envs.make(Task("Graft/Maze-v0"), 1, 0, render_mode="ansi").render()


def test_a_widened_batch_is_rendered_like_the_batch() -> None:
    schema = envs.schemas(Task("Graft/Hunt-v0")).observation
    wide = envs.make(Task("Graft/Snake-v0"), 1, 0, render_mode="ansi")
    both = union([wide.observation_schema, schema])
    wider = envs.make(Task("Graft/Snake-v0"), 1, 0, observation=both, render_mode="ansi")
    for env in (wide, wider):
        env.reset()
    assert wide.render() == wider.render()


def test_environments_of_gymnasium_are_drawn_by_themselves() -> None:
    pytest.importorskip("minigrid")
    env = envs.make(Task("minigrid:MiniGrid-Empty-5x5-v0"), 2, 0, render_mode="rgb_array")
    env.reset()
    frames = env.render()
    assert frames is not None
    assert len(frames) == 2
    assert np.asarray(frames[0]).shape == (160, 160, 3)
    assert env.metadata["render_fps"] == 10


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (Task("envpool/CartPole-v1"), "cannot be drawn; single built-in games, squads and Gymnasium's"),
        (Task("Graft/Mixture-v0", {"tasks": ["Graft/Maze-v0", "Graft/Hunt-v0"]}), "cannot be drawn"),
    ],
)
def test_a_task_that_cannot_be_drawn_says_so(task: Task, text: str) -> None:
    with pytest.raises(GraftError, match=text):
        envs.make(task, 1, 0, render_mode="rgb_array")


def test_a_mode_that_a_third_party_does_not_offer_is_refused() -> None:
    with pytest.raises(GraftError, match=r"CartPole-v1' cannot be drawn as text; it offers: human, rgb_array"):
        envs.make(Task("CartPole-v1"), 1, 0, render_mode="text")


def test_the_board_fits_the_picture() -> None:
    assert SIDE % 64 == 0
    assert SIZE * SPRITE <= 64
    assert batch("Gather").metadata["render_fps"] > 0
