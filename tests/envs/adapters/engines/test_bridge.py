"""Graft and the process that plays a game: what they say to each other, with a tiny game in place of an engine's."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from graft import envs
from graft.agents.training.periodic_evaluation import check_size
from graft.envs import GraftError, Task
from graft.envs.adapters.engines import bridge
from graft.envs.adapters.engines.process import protocol
from graft.envs.adapters.mixture import MixtureVectorEnv
from graft.envs.core.task import BatchOptions

TINY = Path(__file__).parents[3] / "support" / "tiny_engine.py"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A file that stands for a build of the tiny game."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{TINY}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("GRAFT_UNITY_PYTHON", str(python))
    return python


@pytest.fixture
def port(build, monkeypatch):
    """A port for the tiny game, whose process ends with the test."""
    monkeypatch.setattr(bridge, "LINGER", 0.0)
    yield protocol.free_port()
    (process,) = bridge._PROCESSES
    assert process.poll() is None  # though nobody plays
    bridge._PROCESSES.clear()
    process.stdin.close()
    assert process.wait(20) == 0


def test_agents_that_end_at_different_steps(build):
    """Three rows are two games of two agents; the surplus one gets actions of zeros."""
    env = envs.make(Task(f"unity:{build}", {"action_masks": False}), 3, 0)
    assert env.observation_schema.names == ("clock", "last")
    assert env.action_schema.names == ("button=0", "button=1", "button=2")
    obs, infos = env.reset()
    assert infos["alive"].tolist() == [True] * 3
    seen = []
    for _ in range(4):
        obs, rewards, terminated, truncated, infos = env.step(np.array([1, 2, 0]))
        final = infos["final_obs"][infos["_final_obs"]].tolist() if "final_obs" in infos else []
        seen.append((*(x.tolist() for x in (obs, rewards, terminated, truncated, infos["alive"])), final))
    env.close()
    on, off = [True] * 3, [False] * 3
    assert seen == [
        ([[1, 1], [1, 2], [1, 0]], [2, 3, 1], off, off, on, []),
        ([[2, 1], [0, 0], [2, 0]], [2, 3, 1], [False, True, False], off, [True, False, True], [[2, 2]]),
        ([[3, 1], [0, 2], [3, 0]], [2, 0, 1], off, off, on, []),
        ([[0, 0], [1, 2], [0, 0]], [2, 3, 1], off, [True, False, True], on, [[4, 1], [4, 0]]),
    ]


def test_two_batches_take_turns_at_a_port(port):
    """Who comes back finds the episodes cut at the observations that it saw last."""
    task = Task(f"unity:{port}", {"action_masks": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", sys.stdout)
        first = envs.make(task, 2, 0)
    second = envs.make(task, 1, 0)
    assert first.observation_schema.flags == tuple(f"forbidden/button={i}" for i in range(3))
    first.reset()
    before = first.step(np.array([1, 0]))[0]
    second.reset()
    second.step(np.array([2]))
    obs, rewards, terminated, truncated, infos = first.step(np.array([2, 2]))
    assert truncated.all()
    assert not terminated.any()
    assert rewards.tolist() == [0, 0]
    assert np.array_equal(infos["final_obs"], before)
    assert not obs.any()
    assert first.step(np.array([1, 0]))[0][0].tolist() == [1, 1, 0, 0, 0]
    with closing(envs.make(task, 3, 0)) as small, pytest.raises(GraftError, match=r"algorithm: {num_envs: 2}"):
        check_size(small, 3)
    with socket.create_connection(("127.0.0.1", bridge.bridge_of(str(port)))) as other:
        protocol.send(other, {"do": "hello", "pid": 1})
        assert "--jobs 1" in protocol.receive(other)[0]["error"]
    first.close()
    second.close()


def test_a_task_with_other_keywords_is_refused_at_a_port(port):
    with (
        closing(envs.make(Task(f"unity:{port}", {"speed": 2}), 1, 0)),
        pytest.raises(GraftError, match=r"connected with speed 2\.0, and this task says 20\.0; give tasks at a port"),
    ):
        envs.make(Task(f"unity:{port}"), 1, 0)


def test_a_game_that_nobody_plays_makes_room_for_other_keywords(build, monkeypatch):
    monkeypatch.setattr(bridge, "LINGER", 0.0)
    port = protocol.free_port()
    envs.make(Task(f"unity:{port}"), 1, 0).close()
    (process,) = bridge._PROCESSES
    bridge._PROCESSES.clear()
    with process.stdin, pytest.raises(GraftError, match=r"with behaviour '', and this task says 'Runner'"):
        envs.make(Task(f"unity:{port}", {"behaviour": "Runner"}), 1, 0)
    assert process.wait(20) == 0


def test_rows_of_a_mixture_are_agents(port):
    """A game of two agents is no three rows of a mixture."""
    found = [Task(f"unity:{port}", {"action_masks": mask}) for mask in (False, True)]
    options = BatchOptions(6, 0, AutoresetMode.SAME_STEP, 1, 1, None)
    with pytest.raises(GraftError, match="gives 2 environments, and this mixture asks it for 3"):
        MixtureVectorEnv(found, options)
    with closing(envs.make(found[0], 2, 0)) as env:
        env.reset()
        with pytest.raises(GraftError, match="has 2 rows, and takes an action of each; got 4"):
            env.step(np.zeros(4, int))


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes")
@pytest.mark.parametrize("how", ["refused", "stays", pytest.param("stuck", marks=pytest.mark.slow)])
def test_a_game_does_not_outlive_its_worker(build, tmp_path, monkeypatch, how):
    """One that does not connect, that does not quit, or whose library hangs; what was started has a child."""
    said = tmp_path / "pid"
    task = Task(f"unity:{build}", {"arguments": [how, str(said)], "timeout": 10})
    monkeypatch.setattr(bridge, "SECONDS_TO_START", 2.0)
    if how == "refused":
        with pytest.raises(GraftError, match="cannot be played: the build did not connect"):
            envs.make(task, 1, 0)
    else:
        envs.make(task, 1, 0).close()
    pid = int(said.read_text())
    for _ in range(50):  # it is reaped by another process
        with suppress(OSError):
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().split()[2] != "Z":
                time.sleep(0.1)
                continue
        return
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the game still runs")


@pytest.mark.parametrize(
    ("fails", "sentence"),
    [
        ("start", "cannot be played: there is no licence."),
        ("die", "has ended; start the game"),
        ("hang", "does not answer; is it paused"),
        ("forbid", r"kwargs: {action_masks: true} or false"),
    ],
)
def test_a_game_that_fails_is_one_sentence(build, monkeypatch, fails, sentence):
    task = Task(f"unity:{build}", {"arguments": [fails], "timeout": 10})

    def play():
        env = envs.make(task, 1, 0)
        monkeypatch.setattr(bridge, "SECONDS_TO_START", -19.0)  # so that a step may take a second
        try:
            env.reset()
            for _ in range(3):
                env.step(np.array([0]))
        finally:
            for game in env._games:
                game._process.kill()
            monkeypatch.undo()
            env.close()

    with pytest.raises(GraftError, match=sentence) as error:
        play()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("godot:1", "python3.11 -m venv ~/godot-env` and `~/godot-env/bin/pip install"),
        ("unity:99999", "from 1 to 65535"),
        ("unity:nothing/here", "neither a port, such as unity:5004, nor a build"),
    ],
)
def test_what_cannot_be_made(monkeypatch, task, sentence):
    monkeypatch.delenv("GRAFT_GODOT_PYTHON", raising=False)
    with pytest.raises(GraftError, match=sentence):
        envs.make(Task(task), 1, 0)


def test_a_bridge_whose_port_another_program_has(build):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        port = next(p for p in (taken - 20000, taken + 20000) if 0 < p < 2**16 and bridge.bridge_of(str(p)) == taken)
        asked = threading.Thread(target=lambda: other.accept()[0].close())
        asked.start()
        with pytest.raises(GraftError, match=rf"plays 'unity:{port}', at port {taken}, has ended"):
            envs.make(Task(f"unity:{port}"), 1, 0)
        asked.join()


def test_messages_are_bounded():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        lengths = protocol.LENGTHS.pack
        for sent in (
            lengths(1 << 30, 0),
            lengths(2, 0) + b"[]",
            lengths(1, 0) + b"{",
            lengths(100_000, 0) + b"[" * 100_000,
        ):
            theirs.sendall(sent)
            with pytest.raises(protocol.Trouble):
                protocol.receive(ours)
