"""Each view of the same board, set up by hand; and that a view changes nothing but what is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.game_states import batch, place

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.builtin.engine.entities import ENTITIES, PALETTES
from graft.envs.builtin.engine.game import GAMES, NOOP, RIGHT
from graft.envs.builtin.engine.state import COIN, HAZARD, WALL
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.builtin.views import ego

GAME_IDS = list(GAMES)
VIEW_NAMES = list(VIEWS)
PLAYER = 0
RADIUS = int(ego.RADIUS.default)


def shown(view: str, player: tuple[int, int], cells: dict[tuple[int, int], int], **options: Any) -> Any:
    """What is seen of a board of Gather after a step without a move."""
    env = batch("Gather", view=view, **options)
    place(env, player, cells)
    return env.step(np.array([NOOP]))[0][0]


def ones(planes: Any) -> set[tuple[int, ...]]:
    return {tuple(map(int, where)) for where in np.argwhere(planes)}


def test_planes_hold_the_player_and_the_things() -> None:
    planes = shown("planes", (2, 3), {(2, 7): WALL, (0, 3): HAZARD, (7, 1): COIN, (7, 2): COIN})
    assert ones(planes) == {(0, 2, 3), (1, 2, 7), (2, 0, 3), (3, 7, 1), (3, 7, 2)}


def test_ego_shows_the_cells_within_four_of_the_player_and_what_is_outside() -> None:
    seen = shown(
        "ego",
        (2, 3),
        channels="names",
        radius=4,
        cells={(2, 7): WALL, (2, 8): WALL, (0, 3): HAZARD, (6, 0): COIN, (7, 3): COIN},
    )
    assert seen.shape == (5, 9, 9)
    things = ones(seen[:4])  # a cell (r, c) is seen at (r - 2 + 4, c - 3 + 4)
    assert things == {(PLAYER, 4, 4), (WALL, 4, 8), (HAZARD, 2, 4), (COIN, 8, 1)}
    outside = np.zeros((9, 9))
    outside[:2] = 1  # rows -2 and -1
    outside[:, 0] = 1  # column -1
    np.testing.assert_array_equal(seen[4], outside)


@pytest.mark.parametrize(
    ("player", "rows", "columns"), [((0, 0), (4, 9), (4, 9)), ((9, 9), (0, 5), (0, 5)), ((4, 6), (0, 9), (0, 8))]
)
def test_ego_marks_the_outside_on_each_side(
    player: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    inside = np.zeros((9, 9), bool)
    inside[rows[0] : rows[1], columns[0] : columns[1]] = True
    seen = shown("ego", player, {}, channels="names", radius=4)
    np.testing.assert_array_equal(seen[4], ~inside)


@pytest.mark.parametrize("radius", [1, 3, 9])
def test_ego_is_a_cut_of_the_board_with_a_margin(radius: int) -> None:
    """Of the planes and of what is outside, at every place of the player, as numpy cuts them."""
    env, plain = (
        batch("Gather", 16, **{"view": v, **kw})
        for v, kw in {"ego": {"channels": "names", "radius": radius}, "planes": {}}.items()
    )
    seen, boards = env.reset()[0], plain.reset()[0]
    for actions in np.random.default_rng(0).integers(0, 5, (20, 16)):
        for mine, board in zip(seen, boards, strict=True):
            outside = np.pad(np.zeros((10, 10), np.uint8), radius, constant_values=1)
            padded = np.concatenate([np.pad(board, ((0, 0), (radius, radius), (radius, radius))), outside[None]])
            row, column = np.argwhere(board[PLAYER])[0]
            np.testing.assert_array_equal(mine, padded[:, row : row + 2 * radius + 1, column : column + 2 * radius + 1])
        seen, boards = env.step(actions)[0], plain.step(actions)[0]


def test_options_of_a_view_are_checked() -> None:
    with pytest.raises(
        GraftError, match=r"Graft/Gather-v0: radius=10 is not allowed; it is a whole number from 1 to 9"
    ):
        batch("Gather", view="ego", radius=10)
    with pytest.raises(GraftError, match="radius is an option of the view ego, not of planes"):
        batch("Gather", view="planes", radius=3)
    with pytest.raises(GraftError, match="Unknown channels of Graft/Gather-v0 in the view ego 'name'"):
        batch("Gather", view="ego", channels="name")
    with pytest.raises(
        GraftError, match="channels=both of Graft/Gather-v0 in the view pixels is not possible: it shows"
    ):
        batch("Gather", view="pixels", channels="both")


def test_features_by_hand() -> None:
    seen = shown("features", (2, 3), {(2, 7): WALL, (9, 9): WALL, (7, 1): COIN})
    expected = [
        *(-5 / 9, -3 / 9, 1, 0.01),  # the player: from -1 in the first row or column to 1 in the last
        *(0, 0.4, 1, 0.02),  # the nearer wall is four columns to the right
        *(0, 0, 0, 0),  # no hazard
        *(0.5, -0.2, 1, 0.01),
    ]
    np.testing.assert_allclose(seen, np.array(expected, np.float32), rtol=1e-6)


def test_features_prefer_the_first_of_two_that_are_equally_near() -> None:
    seen = shown("features", (5, 5), {(4, 6): COIN, (6, 5): COIN, (4, 5): COIN, (5, 4): COIN})
    np.testing.assert_allclose(seen[12:], np.array([-0.1, 0, 1, 0.04], np.float32))


@pytest.mark.parametrize("player", [(0, 0), (9, 9), (0, 9)])
def test_features_reach_their_bounds(player: tuple[int, int]) -> None:
    seen = shown("features", player, {})
    np.testing.assert_array_equal(seen[:2], [1 if place else -1 for place in player])


def cell(picture: Any, row: int, column: int) -> Any:
    """The pixels (3, 6, 6) of a cell: two pixels of margin, then six for each cell."""
    return picture[:, 2 + 6 * row : 8 + 6 * row, 2 + 6 * column : 8 + 6 * column]


@pytest.mark.parametrize("palette", list(PALETTES))
def test_pixels_show_each_thing_in_its_colour_and_shape(palette: str) -> None:
    cells = {(2, 7): WALL, (0, 3): HAZARD, (7, 1): COIN}
    picture = shown("pixels", (2, 3), cells, palette=palette)
    colours = PALETTES[palette]
    assert tuple(picture[:, 2 + 6 * 2 + 3, 2 + 6 * 3 + 3]) == colours["player"]  # the centre of its sprite
    for (row, column), name in {(2, 3): "player", (2, 7): "wall", (0, 3): "hazard", (7, 1): "coin"}.items():
        mask = ENTITIES[name].mask
        patch = cell(picture, row, column)
        assert {tuple(pixel) for pixel in patch[:, mask].T} == {colours[name]}
        assert {tuple(pixel) for pixel in patch[:, ~mask].T} <= {colours[""]}
        cell(picture, row, column)[:] = np.array(colours[""])[:, None, None]
    assert {tuple(pixel) for pixel in picture.reshape(3, -1).T} == {colours[""]}  # the margin and the empty cells


def test_pixels_by_hand() -> None:
    picture = shown("pixels", (0, 0), {(9, 9): WALL})
    assert picture[:, 4, 4].tolist() == [20, 60, 200]
    assert picture[:, 61, 61].tolist() == [110, 100, 95]
    assert picture[:, 62, 62].tolist() == [236, 232, 220]


def test_pixels_draw_the_player_on_top() -> None:
    env = batch("Snake", view="pixels")
    memo = np.zeros(102, np.int64)
    memo[100:] = RIGHT, 9
    memo[56] = 9
    place(env, (5, 5), {(5, 6): 1}, memo=memo)
    patch = cell(env.step(np.array([NOOP]))[4]["final_obs"][0], 5, 6)  # it has bitten itself
    player, body = ENTITIES["player"].mask, ENTITIES["body"].mask
    assert {tuple(pixel) for pixel in patch[:, player].T} == {PALETTES["day"]["player"]}
    assert {tuple(pixel) for pixel in patch[:, body & ~player].T} == {PALETTES["day"]["body"]}


@pytest.mark.parametrize("palette", list(PALETTES))
def test_a_palette_has_a_colour_for_every_thing(palette: str) -> None:
    assert set(PALETTES[palette]) == {"", *ENTITIES}
    background = PALETTES[palette][""]
    assert all(colour != background for name, colour in PALETTES[palette].items() if name)


def test_no_two_things_of_a_game_look_the_same() -> None:
    for palette in PALETTES.values():
        for game in GAMES:
            looks = [(palette[name], ENTITIES[name].shape) for name in GAMES[game].things]
            assert len(set(looks)) == len(looks)
    assert all(mask.shape == (6, 6) and mask.any() for mask in (entity.mask for entity in ENTITIES.values()))


@pytest.mark.parametrize("view", VIEW_NAMES)
@pytest.mark.parametrize("game", GAME_IDS)
def test_spaces_and_dtypes(game: str, view: str) -> None:
    env = envs.make(Task(game, {"view": view, "channels": "names"}), 3, 0)
    count = len(GAMES[game].things)
    shape, dtype = {
        "planes": ((count, 10, 10), np.uint8),
        "ego": ((count + 1, 2 * RADIUS + 1, 2 * RADIUS + 1), np.uint8),
        "features": ((4 * count,), np.float32),
        "pixels": ((3, 64, 64), np.uint8),
    }[view]
    assert env.single_observation_space.shape == env.observation_schema.shape == shape
    obs, _ = env.reset()
    for _ in range(5):
        assert obs.shape == (3, *shape)
        assert obs.dtype == dtype == env.single_observation_space.dtype
        assert env.observation_space.contains(obs)
        obs = env.step(np.array([1, 3, 5]))[0]


@pytest.mark.parametrize("view", VIEW_NAMES)
@pytest.mark.parametrize("game", GAME_IDS)
def test_the_trajectory_is_the_same_in_every_view(game: str, view: str) -> None:
    """What is seen, of last observations too, is the view of the planes that are seen in the planes' view."""
    plain, env = (envs.make(Task(game, {"view": v, "channels": "names"}), 8, 0) for v in ("planes", view))
    show, options = VIEWS[view].show, {option.name: option.default for option in VIEWS[view].options}

    def viewed(planes: Any) -> Any:
        if show is None:
            return planes
        out = np.empty((len(planes), *env.single_observation_space.shape), env.single_observation_space.dtype)
        show(GAMES[game].things, "day", **options)(np.ascontiguousarray(planes), out)
        return out

    np.testing.assert_array_equal(viewed(plain.reset()[0]), env.reset()[0])
    finals = 0
    for actions in np.random.default_rng(0).integers(0, 6, (202, 8)):
        expected, got = plain.step(actions), env.step(actions)
        np.testing.assert_array_equal(viewed(expected[0]), got[0])
        for before, after in zip(expected[1:4], got[1:4], strict=True):
            np.testing.assert_array_equal(before, after)
        assert expected[4].keys() == got[4].keys()
        if "final_obs" in got[4]:
            ended = got[4]["_final_obs"]
            np.testing.assert_array_equal(ended, got[2] | got[3])
            np.testing.assert_array_equal(viewed(expected[4]["final_obs"])[ended], got[4]["final_obs"][ended])
            finals += int(ended.sum())
    assert finals >= 8


def test_the_final_observation_shows_the_end_and_the_next_one_a_fresh_board() -> None:
    """A player who has stepped onto a hazard at (5, 6), in each view."""

    def last(view: str) -> tuple[Any, Any]:
        env = batch("Gather", view=view, channels="names")
        place(env, (5, 5), {(5, 6): HAZARD})
        obs, _, terminated, _, infos = env.step(np.array([RIGHT]))
        assert terminated[0]
        return infos["final_obs"][0], obs[0]

    final, fresh = last("planes")
    assert ones(final) == {(PLAYER, 5, 6), (HAZARD, 5, 6)}
    assert fresh.sum() == 1 + 12 + 6 + 7
    assert ones(last("ego")[0][:4]) == {(PLAYER, RADIUS, RADIUS), (HAZARD, RADIUS, RADIUS)}
    np.testing.assert_allclose(last("features")[0][8:12], np.array([0, 0, 1, 0.01], np.float32))
    patch = cell(last("pixels")[0], 5, 6)
    assert patch[:, 2, 2].tolist() == [20, 60, 200]
    assert patch[:, 0, 0].tolist() == [200, 30, 40]  # a corner of the hazard, beside the player's head


def test_observations_are_the_callers_to_keep() -> None:
    for view in VIEW_NAMES:
        env = batch("Dodge", 2, view=view)
        obs, _ = env.reset()
        kept = obs.copy()
        env.step(np.array([1, 2]))
        np.testing.assert_array_equal(obs, kept)


@pytest.mark.parametrize("view", VIEW_NAMES)
def test_fog_and_mirror_come_before_the_view(view: str) -> None:
    cells = {(2, 4): WALL, (2, 9): COIN}
    fogged = shown(view, (2, 3), cells, fog=3)
    np.testing.assert_array_equal(fogged, shown(view, (2, 3), {(2, 4): WALL}))
    mirrored = shown(view, (2, 3), cells, mirror=True)
    np.testing.assert_array_equal(mirrored, shown(view, (2, 6), {(2, 5): WALL, (2, 0): COIN}))


@pytest.mark.parametrize(("name", "given", "meant"), [("view", "pixel", "pixels"), ("palette", "nigth", "night")])
def test_mistyped_view_or_palette_gets_the_nearest_name(name: str, given: str, meant: str) -> None:
    with pytest.raises(GraftError, match=f"Unknown {name} '{given}'.*Did you mean '{meant}'"):
        batch("Gather", **{name: given})


def test_observations_that_are_kept_do_not_change():
    env = envs.make(Task("Graft/Shoot-v0", {"view": "pixels", "fall_rate": 0.4}), 4, 0)
    kept = [env.reset()[0]]
    copies = [kept[0].copy()]
    rng = np.random.default_rng(0)
    for _ in range(60):
        obs, _, _, _, infos = env.step(rng.integers(6, size=4))
        kept.append(obs)
        if "final_obs" in infos:
            kept.append(infos["final_obs"])
        copies += [array.copy() for array in kept[len(copies) :]]
    assert len(kept) > 61, "no episode ended"
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
