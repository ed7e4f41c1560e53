"""Batches spread over processes: what comes out is that of one process, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs
from envs import GraftError, Task
from envs.faults import FaultLog, FaultRules, TooManyFaults
from envs.slices import Elsewhere
from envs.workers import Workers

ROOT = Path(__file__).parents[2]
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
DRAWN = Task(
    "CartPole-v1", {"length": {"uniform": [0.3, 1.5]}, "force": {"uniform": [5, 15], "every": 7}, "noise": 0.01}
)

GAME = '''
import os
import gymnasium as gym
import numpy as np

class Refusal(Exception):
    def __init__(self, what, code):  # can be pickled, and not read again
        super().__init__(what)

class Odd(gym.Env):
    """Counts its steps. Fails at those given, can't be drawn where it says so."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}
    observation_space = gym.spaces.Box(-1, 99, (2,))
    action_space = gym.spaces.Box(-1, 1, (2,), np.float64)

    def __init__(self, render_mode=None, fails=0, drawn=True, home=0):
        if home and os.getpid() != home:
            raise Refusal("not at home", 3)
        self.render_mode, self.fails, self.drawn = render_mode, fails, drawn

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken, self.options = 0, options or {}
        if self.fails < 0:
            raise OSError("no level left")
        return np.array([self.np_random.random(), self.options.get("mark", 0)], np.float32), {}

    def step(self, action):
        self.taken += 1
        if self.fails and self.taken % self.fails == 0:
            raise ZeroDivisionError("a bug")
        return np.array([self.taken, self.np_random.random()], np.float32), float(action[0]), False, self.taken == 9, {}

    def render(self):
        if not self.drawn:
            raise LookupError("no brush")
        return np.full((2, 2, 3), self.taken, np.uint8)

gym.register("Odd-v0", entry_point=Odd)
'''
ODD = "odd_games:Odd-v0"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's own package, which only ``sys.path`` leads to."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "odd_games.py").write_text(GAME)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    del sys.modules["odd_games"], gym.registry["Odd-v0"]


def assert_same(one: Any, other: Any) -> None:
    """Of what a reset or a step returns, types and infos included."""
    assert len(one) == len(other)
    for a, b in zip(one[:-1], other[:-1], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert set(one[-1]) == set(other[-1])
    for name, value in one[-1].items():
        assert value.dtype == other[-1][name].dtype
        np.testing.assert_array_equal(value, other[-1][name], name)


def assert_equal_batches(one: Any, other: Any, steps: int) -> int:
    """Play both in the same way; returns how many episodes ended."""
    assert_same(one.reset(), other.reset())
    one.action_space.seed(3)
    ended, mask = 0, np.arange(one.num_envs) % 2 == 1
    kept: list[tuple[Any, Any]] = []
    for t in range(steps):
        actions = one.action_space.sample()
        first, second = one.step(actions), other.step(actions)
        kept.append((first, second))
        ended += int((first[2] | first[3]).sum())
        if t == steps // 3:
            seeds = [7, None, 9, *range(one.num_envs - 3)]
            assert_same(*(env.reset(seed=seeds, options={"reset_mask": mask}) for env in (one, other)))
        if t == steps // 2:
            assert_same(one.reset(seed=11), other.reset(seed=11))
    for pair in kept:  # only now: arrays are the caller's to keep
        assert_same(*pair)
    return ended


@pytest.mark.parametrize("mode", MODES)
def test_the_result_is_that_of_one_process(mode: AutoresetMode) -> None:
    with closing(envs.make(DRAWN, 5, 4, mode)) as one, closing(envs.make(DRAWN, 5, 4, mode, workers=2)) as other:
        assert isinstance(other, Workers)
        assert other.metadata == one.metadata
        assert (other.schemas, other.single_action_space) == (one.schemas, one.single_action_space)
        assert (other.observation_space, other.action_space) == (one.observation_space, one.action_space)
        assert other.mechanics == one.mechanics  # type: ignore[attr-defined]
        assert assert_equal_batches(one, other, 60) > 5


@pytest.mark.parametrize("mode", MODES)
def test_a_users_package_its_faults_and_its_pictures(odd: None, mode: AutoresetMode) -> None:
    """Restarts have the seeds, and faults the words, that they have in one process."""
    task = Task(ODD, {"fails": 7})
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(closing(envs.make(task, 5, 2, mode, render_mode="rgb_array", workers=k)))
            for k in (1, 2)
        )
        assert_same(one.reset(), other.reset())
        for _ in range(12):
            actions = np.linspace(-1, 1, 10).reshape(5, 2)  # float64, as the environment's own
            assert_same(one.step(actions), other.step(actions))
            for a, b in zip(one.render() or (), other.render() or (), strict=True):
                np.testing.assert_array_equal(a, b)
        assert dict(other.faults) == dict(one.faults) == {"raised": 5, "hung": 0, "not_finite": 0, "outside": 0}
        assert other.faults.last == one.faults.last
        assert other.faults.last.startswith("environment 4 in its step: ZeroDivisionError: a bug")
        assert (other.render_mode, other.metadata["render_fps"]) == ("rgb_array", 7)
        assert_same(*(env.reset(options={"mark": 5}) for env in (one, other)))
        assert other.reset(options={"mark": 5})[0][:, 1].tolist() == [5.0] * 5


def test_the_limit_of_faults_is_that_of_the_whole_batch(odd: None) -> None:
    """No part comes to it by itself; and the error is that of one process."""
    task = Task(ODD, {"fails": 3, "faults": {"limit": 6, "window": 100}})
    errors = []
    for workers in 1, 2:
        with closing(envs.make(task, 4, 0, workers=workers)) as env:
            env.reset()
            for _ in range(5):
                env.step(np.zeros((4, 2)))
            with pytest.raises(TooManyFaults, match=r"\(8 times within 100 env steps, 6 are allowed\)") as caught:
                env.step(np.zeros((4, 2)))
            errors.append(caught.value)
    one, other = errors
    assert (str(one), one.task, dict(one.faults)) == (str(other), other.task, dict(other.faults))
    assert isinstance(other.__cause__, Elsewhere)
    assert "ZeroDivisionError: a bug" in str(other.__cause__)
    assert str(pickle.loads(pickle.dumps(other))) == str(one)
    with closing(envs.make(Task(ODD, {"fails": -1}), 3, 0, workers=2)) as env:  # for ever, in both parts
        with pytest.raises(TooManyFaults, match=r"failed too often .* no level left") as caught:
            env.reset()
        assert caught.value.faults == env.faults


def test_a_part_has_its_share_of_the_window() -> None:
    log = FaultLog("a game", FaultRules(limit=1, window=10))
    assert log.shrink(0.33).window == 10
    for _ in range(5):  # one fault in four steps
        log.passed(4)
        log.add("raised", "")
        log.check()
    log.passed(3)
    log.add("raised", "")
    with pytest.raises(TooManyFaults):
        log.check()


def test_errors_of_a_process_are_those_of_one(odd: None) -> None:
    with closing(envs.make(Task(ODD, {"drawn": False}), 2, 0, render_mode="rgb_array", workers=2)) as env:
        env.reset()
        with pytest.raises(LookupError, match="no brush") as caught:
            env.render()
        assert "odd_games.py" in str(caught.value.__cause__)
        env.reset()  # it goes on
        with pytest.raises(GraftError, match="1 seeds were given for 2 environments"):
            env.reset(seed=[1])
        with pytest.raises(ValueError, match="reshape"):
            env.step(np.zeros(3))
    for workers in 1, 2:
        with pytest.raises(GraftError, match="Unknown keyword of odd_games:Odd-v0 'fail'"):
            envs.make(Task(ODD, {"fail": 1}), 2, 0, workers=workers)
    with pytest.raises(GraftError, match=r"does not accept home=.*: not at home") as refused:
        envs.make(Task(ODD, {"home": os.getpid()}), 2, 0, workers=2)
    assert "Refusal: not at home" in str(refused.value.__cause__)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_says_which_environments_it_had(odd: None) -> None:
    with closing(envs.make(Task(ODD), 2, 0, workers=7)) as env:
        assert isinstance(env, Workers)
        env.reset()
        assert [worker.job.size for worker in env._workers] == [1, 1]
        victim = env._workers[1]._process
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(GraftError, match=r"process of environment 1 of task .*Odd.* was ended by SIGKILL"):
                env.step(np.zeros((2, 2)))
    assert multiprocessing.active_children() == []
    with pytest.raises(GraftError, match="batch of 2 environments is closed"):
        env.step(np.zeros((2, 2)))


def test_only_batches_that_gain_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "Graft/Dodge-v0", "CartPole-v1":
        with closing(envs.make(Task(name), 1, 0, workers=4)) as env:
            assert not isinstance(env, Workers)
    with pytest.raises(GraftError, match="workers is 0; at least 1 process"):
        envs.make(Task("CartPole-v1"), 2, 0, workers=0)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=True))
    with pytest.raises(GraftError, match="workers=2 is not allowed in a daemonic process"):
        envs.make(Task("CartPole-v1"), 2, 0, workers=2)


def test_what_only_this_process_knows_is_an_error() -> None:
    class Local(gym.Env[Any, Any]):
        observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    gym.register("Local-v0", entry_point=Local)
    try:
        with pytest.raises(GraftError, match=r"Task Local cannot be made in another process .* or use workers=1"):
            envs.make(Task("Local-v0"), 2, 0, workers=2)
    finally:
        del gym.registry["Local-v0"]


SCRIPT = """
import os, sys
import envs

if __name__ == "__main__":
    env = envs.make(envs.Task("odd_games:Odd-v0"), 2, 0, workers=2)
    env.reset()
    print(*(worker._process.pid for worker in env._workers), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, killed: bool) -> None:
    """Whether it forgets to close, or is killed; without a word of leaked resources. The package is on PYTHONPATH."""
    (tmp_path / "odd_games.py").write_text(GAME)
    (tmp_path / "script.py").write_text(SCRIPT)
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-W", "error", str(tmp_path / "script.py")]
    with subprocess.Popen(command, env=surroundings, text=True, **pipes) as process:
        assert process.stdout is not None
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        if killed:
            process.kill()
        _, complaints = process.communicate("\n")
    assert complaints == ""
    deadline = time.monotonic() + 60
    while any(map(_lives, children)):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # whoever should have waited for it is gone
