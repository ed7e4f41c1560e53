"""The catalog: what it lists, one game in detail, a mistyped game, and the sheet of pictures."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib import image

from graft.envs.adapters import packages
from graft.envs.adapters.gymnasium.adapter import GymnasiumAdapter
from graft.envs.adapters.gymnasium.tunable import CHANNEL, tunable_envs
from graft.envs.builtin.engine.entities import PALETTES
from graft.envs.builtin.engine.game import GAMES, OPTIONS
from graft.envs.builtin.engine.mechanics import MECHANICS
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.catalog import providers
from graft.envs.factory import ADAPTERS
from graft.experiments.catalog import main

NEEDS = {
    "Built-in games": "",
    "Built-in games for teams": "",
    "Gymnasium classic control": "",
    "Gymnasium toy text": "",
    "Gymnasium Box2D": "Box2D",
    "Gymnasium MuJoCo": "mujoco",
    "MuJoCo with dynamics": "mujoco",
    "MiniGrid": "minigrid",
    "ALE": "ale_py",
    "EnvPool": "envpool",
    "EnvPool's Procgen": "envpool",
    "PettingZoo MPE": "mpe2",
}
"""Part -> the package that it needs."""


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


class Adapter:
    """Two parts, of which one is there."""

    def __init__(self, counts: Any) -> None:
        self.states = lambda: {"Here": "ready", "Gone": "Gone is not installed; install it with `pip install gone`."}
        self.counts = counts


def listed_with(monkeypatch: pytest.MonkeyPatch, *adapters: Any) -> dict[str, str]:
    list(ADAPTERS)  # loads those that there are
    monkeypatch.setattr(ADAPTERS, "_entries", {str(i): adapter for i, adapter in enumerate(adapters)})
    return providers()


def test_providers_are_counted_or_come_with_their_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = "Gone is not installed; install it with `pip install gone`."
    found = listed_with(monkeypatch, Adapter(lambda: {"Here": 1651, "Gone": 7}), SimpleNamespace(states=dict))
    assert found == {"Here": "ready, 1,651 ids", "Gone": gone}
    assert listed_with(monkeypatch, Adapter(lambda: {"Here": 1}))["Here"] == "ready, 1 id"
    both = listed_with(monkeypatch, *[Adapter(lambda: {"Here": 2})] * 2)
    assert both["Here"] == "ready, 4 ids"

    def broken() -> dict[str, int]:
        raise ImportError("libGL.so.1 is missing")

    found = listed_with(monkeypatch, Adapter(broken))
    assert found == {
        "Here": "It is installed and cannot be imported: ImportError, libGL.so.1 is missing.",
        "Gone": gone,
    }


def test_every_provider_says_how_it_is_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = providers()
    for part, package in NEEDS.items():
        if package and find_spec(package) is None:
            assert re.fullmatch(r".* is not installed; install it with `pip install .+`\.", found[part])
        elif part != "EnvPool's Procgen":  # its Qt may be missing
            assert re.fullmatch(r"ready, [\d,]+ ids?", found[part])
    assert found["Built-in games"] == f"ready, {len(list(GAMES))} ids"
    main([])
    out = capsys.readouterr().out
    assert all(f"  {part:<26}{state}\n" in out for part, state in found.items())


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    games = "install it with `pip install 'graft-rl[games]'`."
    states = GymnasiumAdapter().states()
    assert states["Gymnasium classic control"] == "ready"
    assert states["Gymnasium Box2D"] == f"Box2D is not installed; {games}"
    assert states["Gymnasium MuJoCo"] == f"MuJoCo is not installed; {games}"
    assert states["MiniGrid"] == f"MiniGrid is not installed; {games}"
    assert states["ALE"] == f"ALE is not installed; {games}"
    assert ADAPTERS["pettingzoo"].states() == {"PettingZoo MPE": f"MPE is not installed; {games}"}  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("name", list(tunable_envs()))
def test_one_of_gymnasiums_environments_in_detail(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    overview = lines(capsys.readouterr().out)
    assert main(["--game", name]) == 0
    listed = lines(capsys.readouterr().out)
    for mechanic in (*tunable_envs()[name].mechanics, *CHANNEL):
        assert listed[mechanic.name] == f"{mechanic.default:g}; {mechanic.range}; {mechanic.meaning}"
    assert overview[name].split(", ")[: len(tunable_envs()[name].mechanics)] == [
        m.name for m in tunable_envs()[name].mechanics
    ]


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
