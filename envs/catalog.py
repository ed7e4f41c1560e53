"""What can be played: lines about providers, games, mechanics and views, and a picture of every game in every view."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import envs
from graft.envs.adapters.gymnasium import tunable
from graft.envs.adapters.gymnasium.randomisation import DISTRIBUTIONS
from graft.envs.adapters.packages import READY
from graft.envs.builtin.arena.game import ARENAS, LARGEST, Arena
from graft.envs.builtin.arena.game import MECHANICS as ARENA_MECHANICS
from graft.envs.builtin.arena.view import THINGS
from graft.envs.builtin.engine.channels import KEYWORD, NAMES
from graft.envs.builtin.engine.entities import ATTRIBUTES, ENTITIES, PALETTES
from graft.envs.builtin.engine.game import GAMES, OPTIONS, Game
from graft.envs.builtin.engine.mechanics import MECHANICS
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS
from graft.errors import unknown

LEVELS = 30  # of a game that are drawn
STEPS = 24  # steps of random play before a game is drawn, so that much is on the board


def _line(name: str, text: str) -> str:
    return f"  {name:<20}{text}"


def providers() -> dict[str, str]:
    """Every part of every adapter -> "ready, 6 ids", or one sentence that says what to install or what is wrong."""
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name in ADAPTERS:
        adapter = ADAPTERS[name]
        states = adapter.states()
        found |= states
        ready = [part for part, state in states.items() if state == READY]
        try:
            known = adapter.counts() if ready else {}
        except Exception as error:  # whatever an installed package raises when it is imported
            broken = f"It is installed and cannot be imported: {type(error).__name__}, {error}."
            found |= dict.fromkeys(ready, broken)
        else:
            counts.update({part: known[part] for part in ready if part in known})
    for part, count in counts.items():
        found[part] = f"{READY}, {count:,} {'id' if count == 1 else 'ids'}"
    return found


def overview() -> list[str]:
    """Lines that list every provider, game, mechanic and view."""
    lines = ["Environments on this machine", *(f"  {part:<26}{state}" for part, state in providers().items())]
    lines += ["", "Games"]
    lines += [_line(name, game.goal) for name, game in GAMES.items()]
    lines += ["", "Mechanics (range; meaning; games)"]
    for mechanic in MECHANICS.values():
        having = [str(Task(name)) for name, game in GAMES.items() if mechanic.name in game.mechanics]
        where = "all" if len(having) == len(list(GAMES)) else ", ".join(having)
        lines.append(_line(mechanic.name, f"{mechanic.range}; {mechanic.meaning}; {where}"))
    lines += ["", "Views (view=...)"]
    lines += [_line(name, view.meaning) for name, view in VIEWS.items()]
    lines += ["", "Other keyword arguments"]
    values = {"palette": f": {', '.join(PALETTES)}"}
    lines += [_line(name, meaning + values.get(name, "")) for name, meaning in OPTIONS.items() if name != "view"]
    lines += [
        _line(option.name, f"{option.range}; {option.meaning}") for _, view in VIEWS.items() for option in view.options
    ]
    lines += ["", "Attributes of things", *(_line(word, meaning) for word, meaning in ATTRIBUTES.items())]
    return [*lines, "", *_arenas(), "", *_tunable()]


def _arenas_by_id() -> dict[str, Arena]:
    return {arena.id: arena for arena in (ARENAS[name] for name in ARENAS)}


def _arenas() -> list[str]:
    lines = ["Squads: games for two teams"]
    lines += [_line(name, arena.goal) for name, arena in _arenas_by_id().items()]
    lines += ["", "Options of squads (range; meaning; games)"]
    for mechanic in ARENA_MECHANICS.values():
        having = [name for name in ARENAS if mechanic.name in ARENAS[name].mechanics]
        where = "all" if len(having) == len(list(ARENAS)) else ", ".join(having)
        lines.append(_line(mechanic.name, f"{mechanic.range}; {mechanic.meaning}; {where}"))
    teams = "; ".join(" and ".join(team.name for team in arena.teams) for arena in _arenas_by_id().values())
    lines.append(_line("sizes of teams", f"1 to {LARGEST}, or a range such as [1, 4] drawn in each episode: {teams}"))
    lines.append(_line("team", "the team that learns, or all; its agents are the rows of the batch"))
    lines.append(_line("opponents", "who plays the other team: random or still"))
    return [*lines, _line(KEYWORD, OPTIONS[KEYWORD])]


def _arena_detail(arena: Arena) -> list[str]:
    return [
        f"{arena.id}: {arena.goal}",
        "",
        "Teams (size)",
        *(_line(team.name, str(team.size if isinstance(team.size, int) else list(team.size))) for team in arena.teams),
        "",
        "Things",
        *(_line(name, ", ".join(ENTITIES[name].attributes)) for name in THINGS),
        "",
        "Options (default; range; meaning)",
        *(_line(m.name, f"{m.default}; {m.range}; {m.meaning}") for m in arena.mechanics.values()),
    ]


def _tunable() -> list[str]:
    lines = ["Gymnasium's environments with mechanics (--game tells their ranges)"]
    for name, has in tunable.tunable_envs().items():
        parts = [f"{stem}<{what}>" for stem, what in has.stems.items()]
        lines.append(f"  {name:<26}{', '.join([*(m.name for m in has.mechanics), *parts])}")
    forms = ", ".join(f"{{{kind}: {numbers}}}" for kind, (numbers, _) in DISTRIBUTIONS.items())
    lines.append(f"  {'all':<26}{', '.join(m.name for m in tunable.CHANNEL)}")
    return [*lines, "  Values are numbers, or drawn at every reset (within episodes with every: steps):", f"  {forms}"]


def tunable_lines(name: str, has: tunable.TunableSpec) -> list[str]:
    lines = [f"{name}: of Gymnasium", "", "Mechanics (default; range; meaning)"]
    lines += [_line(m.name, f"{m.default:g}; {m.range}; {m.meaning}") for m in (*has.mechanics, *tunable.CHANNEL)]
    return lines + [_line(f"{stem}<{what}>", f"the same of one {what} alone") for stem, what in has.stems.items()]


def game_lines(game: Game) -> list[str]:
    bounds = "not measured" if game.bounds is None else f"{game.bounds.random:g} random, {game.bounds.expert:g} expert"
    bounds += "" if game.limit is None else f", at most {game.limit:g}"
    lines = [f"{game.id}: {game.goal}", f"  returns: {bounds}; episodes of at most {game.max_steps} steps"]
    lines += ["", "Things", *(_line(name, ", ".join(game.attributes(name))) for name in game.things)]
    lines += ["", "Mechanics (default; range; meaning)"]
    return lines + [_line(m.name, f"{m.default}; {m.range}; {m.meaning}") for m in game.mechanics.values()]


def detail(game: str) -> list[str]:
    """Lines about the game with this id: for one agent, for two teams, or one of Gymnasium's."""
    arenas, robots = _arenas_by_id(), tunable.tunable_envs()
    if game in robots:
        return tunable_lines(game, robots[game])
    if game not in GAMES and game not in arenas:
        raise unknown("game", game, [*GAMES, *arenas, *robots])
    return _arena_detail(arenas[game]) if game in arenas else game_lines(GAMES[game])


def _played(task: Task) -> TaskVectorEnv:
    env = envs.make(task, 1, 1)
    env.reset()
    env.action_space.seed(3)
    for _ in range(STEPS):
        env.step(env.action_space.sample())
    return env


def _picture(view: str, obs: NDArray[Any], names: tuple[str, ...]) -> NDArray[np.uint8]:
    """An observation as (H, W, 3) pixels: what an agent gets, made visible."""
    if view == "pixels":
        return np.moveaxis(obs, 0, 2)
    if view == "features":  # a row for each kind of thing, a column for each feature, from -1 black to 1 white
        grey = np.round((obs.reshape(-1, 4) + 1) * 127.5).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, 2)
    picture = np.full((*obs.shape[1:], 3), PALETTES["day"][""], np.uint8)
    for plane, name in reversed(list(enumerate(names))):
        picture[obs[plane] > 0] = PALETTES["day"][name]
    return picture


def draw_levels(game: str, path: Path) -> None:
    """Draw thirty levels of a game after some steps of random play, as a PNG; raises GraftError for an unknown one."""
    if game not in GAMES:
        raise unknown("game", game, GAMES)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    env = envs.make(Task(game, {"view": "pixels"}), LEVELS, 1)
    boards, _ = env.reset()
    env.action_space.seed(3)
    for _ in range(3):
        boards = env.step(env.action_space.sample())[0]
    figure, axes = pyplot.subplots(LEVELS // 10, 10, figsize=(17, 1.75 * LEVELS // 10), layout="constrained")
    for axis, board in zip(axes.flat, boards, strict=True):
        axis.imshow(np.moveaxis(board, 0, 2), interpolation="nearest")
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_sheet(path: Path) -> None:
    """Draw every game in every view, and in the other palettes, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns: list[tuple[str, dict[str, Any]]] = [
        *((view, {"view": view}) for view in sorted(VIEWS, key=lambda view: view != "pixels")),
        *((f"pixels, {palette}", {"view": "pixels", "palette": palette}) for palette in PALETTES if palette != "day"),
        ("pixels, fog 3", {"view": "pixels", "fog": 3}),
        ("pixels, mirror", {"view": "pixels", "mirror": True}),
    ]
    figure, axes = pyplot.subplots(
        len(list(GAMES)), len(columns), figsize=(1.7 * len(columns), 1.75 * len(list(GAMES))), layout="constrained"
    )
    for axis, (title, _) in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    for row, name in zip(axes, GAMES, strict=True):
        for axis, (_, options) in zip(row, columns, strict=True):
            env = _played(Task(name, {**options, KEYWORD: NAMES}))
            obs = env.step(np.zeros(1, np.int64))[0][0]
            axis.imshow(_picture(str(options["view"]), obs, env.observation_schema.names), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(str(Task(name)), fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
