"""Games of our own that speak the protocols of Unity and Godot, through the engines' real libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.adapters.engines import bridge
from graft.envs.adapters.engines.process.protocol import free_port

SUPPORT = Path(__file__).parents[3] / "support"
SPAN = 5  # of the games' lines
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def installed(engine: str, home: Path) -> str:
    """A Python with the engine's library, made by the commands that Graft tells, or ``GRAFT_..._PYTHON`` if set."""
    if (known := bridge.python_of(engine)) is not None:
        return known
    python = home / f"{engine}-env" / "bin" / "python"
    if not python.exists():
        if shutil.which(bridge.INSTALL[engine][0].split()[0]) is None:
            pytest.skip(f"needs {bridge.INSTALL[engine][0].split()[0]}")
        for command in bridge.INSTALL[engine]:
            subprocess.run(command, shell=True, check=True, env={**os.environ, "HOME": str(home)})
    return str(python)


@pytest.fixture
def unity(home, monkeypatch) -> str:
    python = installed("unity", home)
    monkeypatch.setenv("GRAFT_UNITY_PYTHON", python)
    return python


@pytest.fixture
def godot(home, monkeypatch) -> None:
    monkeypatch.setenv("GRAFT_GODOT_PYTHON", installed("godot", home))


@contextmanager
def playing(python: str, game: str, *arguments: str) -> Iterator[None]:
    """A game in a process of its own, as an editor plays one."""
    process = subprocess.Popen([python, str(SUPPORT / game), *arguments], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def end_worker() -> None:
    """End the process of the last game at a port, as the end of this one would."""
    process = bridge._PROCESSES.pop()
    process.stdin.close()
    process.wait(60)


def walked(env, episodes: int):
    """Greedy walks to the target: of each episode, returns and what its first and last observations say they are."""
    returns, starts, ends = np.zeros(env.num_envs), [None] * env.num_envs, []
    obs, infos = env.reset()
    alive = infos.get("alive", np.ones(env.num_envs, bool))
    while len(ends) < episodes:
        starts = [seen if start is None and on else start for seen, start, on in zip(obs, starts, alive, strict=True)]
        side = np.sign(obs[:, 1] - obs[:, 0])
        discrete = env.action_schema.kind == "discrete"
        obs, rewards, terminated, truncated, infos = env.step((side + 1).astype(int) if discrete else side[:, None])
        assert not rewards[~alive].any()
        returns += rewards
        for i in np.flatnonzero(terminated | truncated):
            final = infos["final_obs"][i]
            gone = SPAN * (abs(starts[i][1] - starts[i][0]) - abs(final[1] - final[0]))
            ends.append((returns[i], gone, bool(terminated[i])))
            returns[i], starts[i] = 0, None
        alive = infos.get("alive", alive)
    return ends


@pytest.mark.parametrize("sensors", ["", "discrete", "sonar", "camera", "discrete,mask"])
def test_agents_of_unity(unity, monkeypatch, sensors):
    """What an episode's rewards sum up to is what its first and last observations say."""
    monkeypatch.setattr(bridge, "LINGER", 0.0)
    port = free_port()
    task = Task(f"unity:{port}", {"action_masks": True} if "mask" in sensors else {})
    with playing(unity, "unity_game.py", "--mlagents-port", str(port), "--sensors", sensors):
        with closing(envs.make(task, 4, 0)) as env:
            names = [name.removeprefix("vector/") for name in env.observation_schema.plain.names]
            assert names[:2] == ["Walker.VectorSensor_0", "Walker.VectorSensor_1"]
            assert ("Walker.Sonar_0" in names) == ("sonar" in sensors)
            assert env.observation_schema.kind == {"camera": "parts", "discrete,mask": "masked"}.get(sensors, "vector")
            assert env.action_schema.kind == ("discrete" if "discrete" in sensors else "box")
            ends = walked(env, 40)
            if sensors == "camera":  # a column of ones, where the agent is
                obs, _ = env.reset()
                assert env.observation_schema.names[2:] == ("Walker_Camera/grey",)
                picture = obs[:, 2:].reshape(4, 8, 11)
                assert np.array_equal(picture[:, 0].argmax(1) - SPAN, np.round(obs[:, 0] * SPAN))
                assert (picture.sum(2) == 1).all()
        end_worker()
    assert np.mean([there for _, _, there in ends]) > 0.8
    for total, gone, there in ends:
        assert total == pytest.approx(gone + there, abs=1e-4)


def test_agents_of_unity_that_are_asked_at_different_steps(unity, monkeypatch):
    monkeypatch.setattr(bridge, "LINGER", 0.0)
    port = free_port()
    with (
        playing(unity, "unity_game.py", "--mlagents-port", str(port), "--sensors", "shifted"),
        closing(envs.make(Task(f"unity:{port}"), 4, 0)) as env,
        pytest.raises(GraftError, match="are asked for actions at different steps; give all of them the same Decision"),
    ):
        walked(env, 40)
    end_worker()


def stopped(said: Path) -> bool:
    """Whether the processes whose numbers are in a file have ended."""
    states = [Path("/proc", pid, "stat") for pid in said.read_text().split()]
    return bool(states) and all(not state.exists() or state.read_text().split()[2] == "Z" for state in states)


def test_a_build_of_godot_that_does_not_connect(godot, tmp_path):
    """Its path has a space; what it starts ends with the attempt."""
    build, said = tmp_path / "my game.sh", tmp_path / "pid"
    build.write_text(f'#!/bin/sh\nsleep 600 &\necho $! > "{said}"\nwait\n')
    build.chmod(0o755)
    with pytest.raises(GraftError, match="the build did not connect in 10 seconds"):
        envs.make(Task(f"godot:{build}", {"timeout": 10, "arguments": ["-nographics"]}), 1, 0)
    assert stopped(said)


def test_builds_of_unity(unity, tmp_path, monkeypatch):
    """Six rows are two builds of four agents; one that does not answer is one sentence, and none stays."""
    build, said = tmp_path / "Walker.x86_64", tmp_path / "pids"
    # What the script starts stays when the game has quit.
    script = f'sleep 600 &\necho $! >> "{said}"\n"{unity}" "{SUPPORT / "unity_game.py"}" "$@"\nwait\n'
    build.write_text(f"#!/bin/sh\n{script}")
    build.chmod(0o755)
    task = Task(f"unity:{build}", {"arguments": ["--fails-after", "20"], "timeout": 30})
    with closing(envs.make(task, 6, 0)) as env:
        assert [game.agents for game in env._games] == [4, 4]
        with pytest.raises(GraftError, match=r"The game 'unity:.*' cannot be played: Unity.*\.$") as error:
            walked(env, 100)
    assert "\n" not in str(error.value)
    assert stopped(said)


def test_a_game_of_godot_that_ends(godot, monkeypatch):
    monkeypatch.setattr(bridge, "LINGER", 0.0)
    port = free_port()
    with (
        playing(sys.executable, "godot_game.py", f"--port={port}", "--fails_after=5"),
        closing(envs.make(Task(f"godot:{port}"), 4, 0)) as env,
    ):
        assert env.observation_schema.names == ("obs_0", "obs_1")
        assert env.action_schema.names == ("move=0", "move=1", "move=2")
        with pytest.raises(GraftError, match=f"The game 'godot:{port}' cannot be played: the game has ended."):
            walked(env, 100)
        end_worker()


EXPERIMENT = {
    "methods": ["finetune"],
    "seeds": 1,
    "pretrain": {"steps": 6000},
    "transfer": {"steps": 2000},
    "network": {"head": [32]},
    "algorithm": {"name": "ppo", "num_envs": 4, "num_steps": 128, "minibatch": 128, "epochs": 4},
    "evaluation": {"every": 1000, "episodes": 20},
}


def test_an_agent_moves_to_a_game_with_one_more_sensor(godot, tmp_path):
    old, new = free_port(), free_port()
    ids = {"name": "patch", "sources": f"godot:{old}", "targets": f"godot:{new}"}
    (tmp_path / "patch.yaml").write_text(yaml.safe_dump(EXPERIMENT | ids))
    command = [sys.executable, "-m", "graft", "run", "patch.yaml", "--out", "out", "--jobs", "1"]
    environ = {**os.environ, "PYTHONPATH": str(SUPPORT.parents[1]), "OMP_NUM_THREADS": "1"}
    with (
        playing(sys.executable, "godot_game.py", f"--port={old}"),
        playing(sys.executable, "godot_game.py", f"--port={new}", "--sonar=yes"),
    ):
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "new: sonar_0 (zero), sonar_1 (zero)" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    # Normalised: 0 is the least that any of them had, and 1 the most.
    start = {row["method"].split()[0]: row["zero_shot"]["iqm"] for row in results["rows"]}
    assert start["finetune"] > max(start["scratch"], start["random_frozen"]) + 0.5
