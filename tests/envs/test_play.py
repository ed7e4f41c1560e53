"""Playing in the terminal: keys, lines of input, scores, errors, and a terminal that is left as it was."""

from __future__ import annotations

import io
import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.builtin.engine.game import ACTIONS, GAMES
from graft.envs.core.task_string import task_of
from graft.envs.keys import keys, presses
from graft.envs.play import Session, line_by_line, on_screen
from graft.experiments.play import main


def lines(text: str, session: Session) -> str:
    """What is printed while the lines of ``text`` are played."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    line_by_line(session, io.StringIO(text), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def told(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return main(arguments)


def test_a_script_is_played_like_the_same_actions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = [4, 4, 2, 1, 3, 0, 5]
    env = envs.make(Task("Graft/Gather-v0", {"slip": 0.4}), 1, 3)
    env.reset()
    score = sum(float(env.step(np.array([a]))[1][0]) for a in actions)
    assert told(monkeypatch, "right d down\nWA noop\n \n", "Graft/Gather-v0", "--seed", "3", "slip=0.4") == 0
    printed = capsys.readouterr().out
    assert f"Goal: {GAMES['Graft/Gather-v0'].goal}" in printed
    assert "Gather(slip=0.4)" in printed
    assert f"score {score:g}   step 7 of 200" in printed
    assert "arrows or WASD" in printed
    assert "\x1b" not in printed


def test_the_board_shows_what_an_agent_may_see() -> None:
    session = Session(Task("Graft/Gather-v0", {"fog": 1}), 0)
    shown = session.board().plain.replace(" ", "")
    assert shown.count("@") == 1
    assert shown.count(".") >= 91
    assert len(shown.split()) == 10


@pytest.mark.parametrize("view", ["features", "pixels"])
def test_views_for_networks_are_shown_as_planes(view: str) -> None:
    as_planes = Session(Task("Graft/Maze-v0", {"palette": "night"}), 2)
    session = Session(Task("Graft/Maze-v0", {"palette": "night", "view": view}), 2)
    assert session.board().plain == as_planes.board().plain


def test_names_for_agents_are_not_for_people() -> None:
    named = Session(Task("Graft/Maze-v0", {"schema": {"observation": {"wall": "hedge", "player": "me"}}}), 2)
    assert named.board().plain == Session(Task("Graft/Maze-v0"), 2).board().plain


def test_an_end_waits_for_a_new_episode() -> None:
    session = Session(Task("Graft/Dodge-v0", {"fall_rate": 0.0}), 0)
    printed = lines("." * 200 + "\n..\n", session)
    assert printed.count("step 200 of 200   Time is up: r for the next one, q to quit") == 2
    assert session.returns == [pytest.approx(20.0)]
    lines("restart\n..", session)
    assert session.steps == 2
    assert session.over == ""
    assert session.summary() == "1 finished, mean score 20, best 20."


def test_quit_ends_at_once_and_an_unfinished_score_is_told() -> None:
    session = Session(Task("Graft/Dodge-v0", {"fall_rate": 0.0}), 0)
    lines(".q\n....\n", session)
    assert session.steps == 1
    assert session.summary() == "No episode was finished; the score was 0.1 after 1 steps."


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (["Graft/Mazw-v0"], "", "Did you mean 'Graft/Maze-v0'"),
        (["Graft/Maze-v0", "slp=0.2"], "", "Did you mean 'slip'"),
        (["Graft/Maze-v0", "slip=2"], "", "it is a number from 0 to 1"),
        (["Graft/Maze-v0", "Graft/Hunt-v0"], "", "Give one task"),
        (["slip=0.1"], "", "got none"),
        (["Graft/Maze-v0", "slip=[0"], "", "is not a YAML value"),
        (["Graft/Maze-v0", "slip=0.1", "slip=0.2"], "", "each keyword once"),
        (["Graft/Maze-v0"], "jump\n", "'j' in 'jump' is no action; allowed: noop, up, down, left, right, act"),
        (["Graft/Maze-v0", "--seed", "-1"], "", "seeds are whole numbers from 0"),
        (["CartPole-v1"], "", "Unknown game 'CartPole-v1'"),
        (["Graft/Pursuit-v0"], "", "`graft watch CHECKPOINT Graft/Pursuit-v0 --gif FILE`"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(
    arguments: list[str],
    text: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told(monkeypatch, text, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "graft play Graft/Platform-v0 gravity=0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("1e-1", 0.1), ("true", True), ("chase", "chase"), ("[0, 200]", [0, 200]), ("3", 3), ("-x", "-x")],
)
def test_values_are_yaml(text: str, value: Any) -> None:
    found = task_of([f"slip={text}", "Graft/Hunt-v0"])
    assert found == Task("Graft/Hunt-v0", {"slip": value})
    assert type(found.kwargs["slip"]) is type(value)


def test_arrows_and_characters_are_told_apart() -> None:
    assert list(presses("w\x1b[A\x1bOB\x1b[1;5C\x1b[Dq \x1b[3~.")) == [
        "w",
        "up",
        "down",
        "right",
        "left",
        "q",
        " ",
        ".",
    ]


def test_every_action_has_a_key_and_the_keys_play() -> None:
    session, plain = (Session(Task("Graft/Hunt-v0"), 1) for _ in range(2))
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    on_screen(session, iter(["W", "left", "?", "s", "d", " ", ".", "q", "w"]), console)
    for name in ("up", "left", "down", "right", "act", "noop"):
        plain.act(ACTIONS.names.index(name))
    assert session.steps == 6
    assert session.score == plain.score
    assert session.board() == plain.board()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith("\x1b[?1049h"), "a screen of its own"
    assert shown.rstrip("\x1b[?25h").endswith("\x1b[?1049l"), "which is left"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_the_terminal_is_left_as_it_was() -> None:
    import pty
    import signal
    import termios

    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with keys(slave) as pressed:
            assert termios.tcgetattr(slave)[3] & termios.ICANON == 0
            os.write(master, b"w\x1b[Aq")
            assert [next(pressed) for _ in range(3)] == ["w", "up", "q"]
        assert termios.tcgetattr(slave) == before
        with pytest.raises(SystemExit), keys(slave):
            signal.raise_signal(signal.SIGTERM)
        assert termios.tcgetattr(slave) == before
        with pytest.raises(KeyboardInterrupt), keys(slave):
            raise KeyboardInterrupt
        assert termios.tcgetattr(slave) == before
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        os.close(slave)
        os.close(master)


def test_a_game_that_is_not_built_in_is_refused() -> None:
    with pytest.raises(GraftError, match="Unknown game"):
        Session(Task("Pendulum-v1"), 0)


def test_a_windows_console_is_read_with_its_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = iter(["w", "\xe0", "H", "\x00", "K", "\xe0", "?", " ", "\x03"])
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(getwch=lambda: next(sent)))
    monkeypatch.setattr(sys, "platform", "win32")
    with keys(0) as pressed:
        assert [next(pressed) for _ in range(4)] == ["w", "up", "left", " "]
        with pytest.raises(KeyboardInterrupt):
            next(pressed)
