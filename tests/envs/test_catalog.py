"""The catalog: what it lists, one game in detail, a mistyped game, and the sheet of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import image

from envs.adapters.knobs import CHANNEL, tables
from envs.catalog import main
from envs.engine.entities import PALETTES
from envs.engine.game import GAMES, OPTIONS
from envs.engine.mechanics import MECHANICS
from envs.engine.view import VIEWS


def lines(out: str) -> dict[str, str]:
    """First word -> rest of each line of a list."""
    split = (line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    return {words[0]: words[1] for words in split if len(words) == 2}


def test_the_listing_names_every_game_mechanic_and_view(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = lines(capsys.readouterr().out)
    for name, game in GAMES.items():
        assert listed[name] == game.goal
    for name, mechanic in MECHANICS.items():
        assert listed[name].startswith(f"{mechanic.range}; {mechanic.meaning}; ")
    for name, view in VIEWS.items():
        assert listed[name] == view.meaning
    assert set(OPTIONS) - {"view"} <= listed.keys()
    assert all(palette in listed["palette"] for palette in PALETTES)


def test_the_listing_says_which_games_have_a_mechanic(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = lines(capsys.readouterr().out)
    assert listed["slip"].endswith("; all")
    assert listed["projectile_speed"].endswith("; Shoot")
    assert listed["enemy_speed"].endswith("; Hunt, Race")
    assert listed["hazard_density"].endswith("; Gather, Platform")


@pytest.mark.parametrize("game", list(GAMES))
def test_a_game_in_detail(game: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--game", game]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{game}: {GAMES[game].goal}")
    assert "at most 200 steps" in out
    listed = lines(out)
    assert set(GAMES[game].things) <= listed.keys()
    for name, mechanic in GAMES[game].mechanics.items():
        assert listed[name].startswith(f"{mechanic.default}; {mechanic.range}; ")
    absent = MECHANICS.keys() - GAMES[game].mechanics.keys()
    assert not absent & listed.keys()


@pytest.mark.parametrize("name", list(tables()))
def test_one_of_gymnasiums_environments_in_detail(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    overview = lines(capsys.readouterr().out)
    assert main(["--game", name]) == 0
    listed = lines(capsys.readouterr().out)
    for mechanic in (*tables()[name].mechanics, *CHANNEL):
        assert listed[mechanic.name] == f"{mechanic.default:g}; {mechanic.range}; {mechanic.meaning}"
    assert overview[name].split(", ")[: len(tables()[name].mechanics)] == [m.name for m in tables()[name].mechanics]


def test_a_mistyped_game_ends_with_2_and_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--game", "Graft/Mazw-v0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: Unknown game 'Graft/Mazw-v0'")
    assert "Did you mean 'Graft/Maze-v0'" in err


def test_an_unknown_option_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--gaem", "Graft/Maze-v0"])
    assert ended.value.code == 2
    assert "--gaem" in capsys.readouterr().err


def test_the_sheet_is_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "worlds.png"
    assert main(["--sheet", str(path)]) == 0
    assert capsys.readouterr().err == ""
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    pixels = image.imread(path)
    rows, columns = pixels.shape[:2]
    assert rows > 100 * len(list(GAMES))
    assert columns > 100 * len(list(VIEWS))
    for row in range(len(list(GAMES))):  # something is drawn for each game
        band = pixels[row * rows // len(list(GAMES)) : (row + 1) * rows // len(list(GAMES))]
        assert band[..., :3].std() > 0.1
