"""The games for two teams in words, for ``graft catalog``."""

from __future__ import annotations

from graft.envs.builtin.arena.game import ARENAS, LARGEST, MECHANICS, Arena, Size
from graft.envs.builtin.arena.view import THINGS
from graft.envs.builtin.engine.entities import ENTITIES


def _line(name: str, text: str) -> str:
    return f"  {name:<20}{text}"


def _size(size: Size) -> str:
    return str(size) if isinstance(size, int) else f"[{size[0]}, {size[1]}]"


def by_id() -> dict[str, Arena]:
    """Task id -> game."""
    return {arena.id: arena for arena in (ARENAS[name] for name in ARENAS)}


def overview() -> list[str]:
    """Lines that list every game for two teams, and their options."""
    lines = ["Squads: games for two teams"]
    lines += [_line(name, arena.goal) for name, arena in by_id().items()]
    lines += ["", "Options of squads (range; meaning; games)"]
    for mechanic in MECHANICS.values():
        having = [name for name in ARENAS if mechanic.name in ARENAS[name].mechanics]
        where = "all" if len(having) == len(list(ARENAS)) else ", ".join(having)
        lines.append(_line(mechanic.name, f"{mechanic.range}; {mechanic.meaning}; {where}"))
    teams = "; ".join(" and ".join(team.name for team in arena.teams) for arena in by_id().values())
    lines.append(_line("sizes of teams", f"1 to {LARGEST}, or a range such as [1, 4] drawn in each episode: {teams}"))
    lines.append(_line("team", "the team that learns, or all; its agents are the rows of the batch"))
    return [*lines, _line("opponents", "who plays the other team: random or still")]


def arena_lines(arena: Arena) -> list[str]:
    """Lines about one game."""
    return [
        f"{arena.id}: {arena.goal}",
        "",
        "Teams (size)",
        *(_line(team.name, _size(team.size)) for team in arena.teams),
        "",
        "Things",
        *(_line(name, ", ".join(ENTITIES[name].attributes)) for name in THINGS),
        "",
        "Options (default; range; meaning)",
        *(_line(m.name, f"{m.default}; {m.range}; {m.meaning}") for m in arena.mechanics.values()),
    ]
