"""The squads in the catalog: what it lists, and one game in detail."""

from __future__ import annotations

import pytest

from graft.envs.builtin.arena.game import ARENAS, MECHANICS
from graft.envs.builtin.arena.view import THINGS
from graft.experiments.catalog import main


def test_the_listing_names_every_game_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in ARENAS:
        assert f"  {ARENAS[name].id:<20}{ARENAS[name].goal}" in out
    for name, mechanic in MECHANICS.items():
        assert f"  {name:<20}{mechanic.range}; {mechanic.meaning}; " in out
    assert "reds and blues" in out
    assert "  opponents " in out


@pytest.mark.parametrize("name", list(ARENAS))
def test_a_game_in_detail(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arena = ARENAS[name]
    assert main(["--game", arena.id]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{arena.id}: {arena.goal}")
    assert all(f"  {word} " in out for word in (*THINGS, *arena.mechanics, *(team.name for team in arena.teams)))
    assert not any(f"  {name} " in out for name in MECHANICS.keys() - arena.mechanics.keys())


def test_a_mistyped_game_ends_with_2_and_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--game", "Graft/Persuit-v0"]) == 2
    assert "Did you mean 'Graft/Pursuit-v0'" in capsys.readouterr().err
