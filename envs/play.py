"""A person plays a built-in game in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.text import Text

from graft import envs
from graft.envs.builtin.arena.game import ARENAS
from graft.envs.builtin.engine.channels import KEYWORD, NAMES
from graft.envs.builtin.engine.entities import ENTITIES, PALETTES
from graft.envs.builtin.engine.game import ACT, ACTIONS, DOWN, GAMES, LEFT, NOOP, RIGHT, UP
from graft.envs.builtin.engine.render import EMPTY, topmost
from graft.envs.core.naming import split_names
from graft.envs.core.task import Task
from graft.envs.keys import keys
from graft.errors import GraftError, unknown

KEYS = {
    "w": UP,
    "a": LEFT,
    "s": DOWN,
    "d": RIGHT,
    " ": ACT,
    ".": NOOP,
    **{name: index for index, name in enumerate(ACTIONS.names)},
}
"""Key, or word of a line of input -> action."""

RESTART, QUIT = ("r", "restart"), ("q", "quit")

HELP = "arrows or WASD to move, space to act, . to wait, r for a new episode, q to quit"


class Session:
    """A built-in game played episode after episode, and its score; the board shows what an agent would see.

    The whole board, or in the view ``ego`` the cells around the player, always things by their names. Raises GraftError
    where it is no such game, or a mechanic is not allowed.
    """

    def __init__(self, task: Task, seed: int) -> None:
        if task.id in [arena.id for _, arena in ARENAS.items()]:
            raise GraftError(
                f"{task.id} is a game for squads, which are watched and not played: "
                f"`graft watch CHECKPOINT {task.id} --gif FILE`."
            )
        if task.id not in GAMES:
            raise unknown("game", task.id, GAMES)
        task, _ = split_names(task)  # people see the game's own names
        self.game = GAMES[task.id]
        self.task, played = task, self.game.resolve(task.kwargs)
        self._palette = PALETTES[played.palette]
        shown = {name: value for name, value in task.kwargs.items() if name not in played.options}
        if "view" in shown and played.seen.kind == "planes":
            shown = {**task.kwargs, KEYWORD: NAMES}
        else:
            shown = {**shown, "view": "planes", KEYWORD: NAMES}
        self._env = envs.make(Task(task.id, shown), 1, seed, AutoresetMode.NEXT_STEP)
        self.returns: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Begin the next episode; one that was not finished is not counted."""
        self._obs: Any = self._env.reset()[0]
        self.score, self.steps, self.over = 0.0, 0, ""

    def act(self, action: int) -> None:
        if self.over:
            return
        self._obs, rewards, terminated, truncated, _ = self._env.step(np.array([action]))
        self.score += float(rewards[0])
        self.steps += 1
        if terminated[0] or truncated[0]:
            self.returns.append(self.score)
            self.over = "The episode has ended" if terminated[0] else "Time is up"

    def press(self, key: str) -> bool:
        """Do what ``key`` stands for, nothing for an unknown one; false to quit."""
        if key in QUIT:
            return False
        if key in RESTART:
            self.restart()
        elif key in KEYS:
            self.act(KEYS[key])
        return True

    def _style(self, name: str) -> str:
        colour, ground = self._palette[name or "player"], self._palette[""]
        return f"rgb({colour[0]},{colour[1]},{colour[2]}) on rgb({ground[0]},{ground[1]},{ground[2]})"

    def board(self) -> Text:
        """The board, with two characters a cell, which makes it about square."""
        names = self._env.observation_schema.names
        text = Text()
        for row in topmost(self._obs[0]):
            for index in row:
                name = names[index] if index >= 0 else ""
                glyph = ENTITIES[name].glyph if name else EMPTY
                text.append(f"{glyph} ", f"{self._style(name)}{' bold' if name else ' dim'}")
            text.append("\n")
        return text

    def status(self) -> str:
        line = f"score {self.score:g}   step {self.steps} of {self.game.max_steps}"
        return f"{line}   {self.over}: r for the next one, q to quit" if self.over else line

    def legend(self) -> Text:
        text = Text()
        for name in self._env.observation_schema.names:
            text.append(f" {ENTITIES[name].glyph} ", f"{self._style(name)} bold").append(f" {name}   ")
        return text

    def page(self) -> Text:
        score = self.game.bounds
        scale = "" if score is None else f" (random {score.random:g}, expert {score.expert:g})"
        return Text("\n").join(
            [
                Text(f"{self.task}{scale}", "bold"),
                Text(f"Goal: {self.game.goal}"),
                Text(),
                self.board(),
                Text(self.status(), "bold"),
                Text(),
                self.legend(),
                Text(HELP, "dim"),
            ]
        )

    def summary(self) -> str:
        if not self.returns:
            return f"No episode was finished; the score was {self.score:g} after {self.steps} steps."
        count, best = len(self.returns), max(self.returns)
        return f"{count} finished, mean score {sum(self.returns) / count:g}, best {best:g}."


def on_screen(session: Session, pressed: Iterable[str], console: Console) -> None:
    """Play with single key presses on an alternate screen, which leaves the terminal as it was."""
    with console.screen() as screen:
        screen.update(session.page())
        for key in pressed:
            if not session.press(key if len(key) > 1 else key.lower()):
                return
            screen.update(session.page())


def _keys_in(line: str) -> list[str]:
    """Names and keys of a line of input. Raises GraftError: neither."""
    if not line.strip():
        return list(line)
    found: list[str] = []
    for word in line.split():
        known = word.lower() in (*KEYS, *RESTART, *QUIT)
        found += [word.lower()] if known else list(word.lower())
    for key in found:
        if key not in (*KEYS, *RESTART, *QUIT):
            names = ", ".join((*ACTIONS.names, RESTART[1], QUIT[1]))
            raise GraftError(f"'{key}' in '{line.strip()}' is no action; allowed: {names}, or keys in a row (wasd.rq).")
    return found


def line_by_line(session: Session, lines: Iterable[str], console: Console) -> None:
    """Play lines of names or keys, and print the board after each; raises GraftError for a word that is no action."""
    console.print(session.page(), soft_wrap=True)
    for line in lines:
        for key in _keys_in(line.rstrip("\r\n")):
            if not session.press(key):
                return
        console.print(session.board(), end="")
        console.print(session.status(), highlight=False, soft_wrap=True)


def run(task: Task, seed: int, source: TextIO) -> None:
    """Play ``task`` with input from ``source``, on the standard output."""
    session, console = Session(task, seed), Console(highlight=False)
    if source.isatty() and console.is_terminal:
        with keys(source.fileno()) as pressed:
            on_screen(session, pressed, console)
    else:
        line_by_line(session, source, console)
    console.print(session.summary(), soft_wrap=True)
