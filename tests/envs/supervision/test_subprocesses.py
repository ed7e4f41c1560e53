"""Environments in processes: what comes out is that of one process, what hangs is ended, nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
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

from graft import envs
from graft.envs import GraftError, Task
from graft.envs.core.faults import TooManyFaults
from graft.envs.supervision.subprocesses import ProcessGroup

ROOT = Path(__file__).parents[3]
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
DRAWN = Task(
    "CartPole-v1", {"length": {"uniform": [0.3, 1.5]}, "force": {"uniform": [5, 15], "every": 7}, "noise": 0.01}
)

GAME = '''
import itertools
import os
import time
import gymnasium as gym
import numpy as np

class Refusal(Exception):
    def __init__(self, what, code):  # can be pickled, and not read again
        super().__init__(what)

def hang(how):
    if how == "sleep":
        time.sleep(600)
    if how == "compiled":
        sum(itertools.repeat(0))  # holds the interpreter's lock, and looks at no signal
    if how == "crash":
        os.kill(os.getpid(), 9)

class Odd(gym.Env):
    """Counts its steps. Fails at those given, can't be drawn where it says so, hangs where a file isn't there yet."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}
    observation_space = gym.spaces.Box(-1, 99, (2,))
    action_space = gym.spaces.Box(-1, 1, (2,), np.float64)

    def __init__(self, render_mode=None, fails=0, drawn=True, home=0, hangs=None, mark=""):
        if home and os.getpid() != home:
            raise Refusal("not at home", 3)
        self.render_mode, self.fails, self.drawn = render_mode, fails, drawn
        self.hangs, self.mark = hangs or {}, mark

    def once(self, where):
        """Hang there, in one environment alone."""
        if where in self.hangs:
            try:
                os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            hang(self.hangs[where])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken, self.options = 0, options or {}
        if self.fails < 0:
            raise OSError("no level left")
        self.once("reset")
        return np.array([self.np_random.random(), self.options.get("mark", 0)], np.float32), {}

    def step(self, action):
        self.taken += 1
        if self.taken == 2:
            self.once("step")
        if self.fails and self.taken % self.fails == 0:
            raise ZeroDivisionError("a bug")
        return np.array([self.taken, self.np_random.random()], np.float32), float(action[0]), False, self.taken == 9, {}

    def close(self):
        if hasattr(self, "taken"):
            self.once("close")

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


def spread(env: Any) -> bool:
    """Whether its environments are in processes."""
    return isinstance(env._batch._group, ProcessGroup)


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
        assert spread(other)
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
        assert other.faults.last.startswith("environment 4 in its step: ZeroDivisionError: a bug (odd_games.py")
        assert (other.render_mode, other.metadata["render_fps"]) == ("rgb_array", 7)
        assert_same(*(env.reset(options={"mark": 5}) for env in (one, other)))
        assert other.reset(options={"mark": 5})[0][:, 1].tolist() == [5.0] * 5


def test_what_is_shown_beside_the_state_is_that_of_one_process() -> None:
    task = Task("Pendulum-v1", {"mass": {"uniform": [0.5, 2], "every": 3}, "show": ["state", "dynamics", "history"]})
    with closing(envs.make(task, 3, 0)) as one, closing(envs.make(task, 3, 0, workers=2)) as other:
        assert spread(other)
        assert_equal_batches(one, other, 20)


def test_the_limit_of_faults_is_that_of_the_whole_batch(odd: None) -> None:
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
    assert isinstance(other.__cause__, ZeroDivisionError)
    assert "in a worker process" in other.__cause__.__notes__[0]
    assert str(pickle.loads(pickle.dumps(other))) == str(one)
    with closing(envs.make(Task(ODD, {"fails": -1}), 3, 0, workers=2)) as env:  # for ever, in both parts
        with pytest.raises(TooManyFaults, match=r"failed too often .* no level left") as caught:
            env.reset()
        assert caught.value.faults == env.faults


def test_errors_of_a_process_are_those_of_one(odd: None) -> None:
    with closing(envs.make(Task(ODD, {"drawn": False}), 2, 0, render_mode="rgb_array", workers=2)) as env:
        with pytest.raises(GraftError, match="cannot be drawn: it was not reset yet"):
            env.render()
        env.reset()
        with pytest.raises(LookupError, match="no brush") as caught:
            env.render()
        assert "odd_games.py" in caught.value.__notes__[0]
        env.reset()  # it goes on
        with pytest.raises(GraftError, match="1 seeds were given for 2 environments"):
            env.reset(seed=[1])
        with pytest.raises(ValueError, match="reshape"):
            env.step(np.zeros(3))
    for workers in 1, 2:
        with pytest.raises(GraftError, match="Unknown keyword of odd_games:Odd-v0 'fail'"):
            envs.make(Task(ODD, {"fail": 1}), 2, 0, workers=workers)
    with (
        closing(envs.make(Task(ODD, {"home": os.getpid()}), 2, 0, workers=2)) as env,
        pytest.raises(TooManyFaults, match=r"does not accept home=.*: not at home") as refused,
    ):
        env.reset()
    assert "Refusal: not at home" in refused.value.__cause__.__notes__[0]  # type: ignore[union-attr]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("how", "mode"), [pytest.param("sleep", MODES[0], marks=pytest.mark.slow), ("compiled", MODES[1])]
)
def test_a_step_that_hangs_is_ended_and_the_others_go_on(
    odd: None, tmp_path: Path, how: str, mode: AutoresetMode
) -> None:
    kwargs = {"hangs": {"step": how}, "mark": str(tmp_path / "hung"), "faults": {"step_timeout": 2.0}}
    with closing(envs.make(Task(ODD, kwargs), 2, 0, mode)) as env:
        assert spread(env)
        env.reset()
        env.step(np.zeros((2, 2)))
        start = time.monotonic()
        obs, rewards, terminated, truncated, infos = env.step(np.ones((2, 2)))
        assert 2.0 <= time.monotonic() - start < 30
        victim = int(truncated.argmax())
        assert (truncated.sum(), terminated.any(), rewards.tolist()) == (1, False, [float(i != victim) for i in (0, 1)])
        last = infos["final_obs"] if mode is AutoresetMode.SAME_STEP else obs
        assert last[victim, 0] == 1.0  # what it showed before
        assert obs[1 - victim, 0] == 2.0
        assert dict(env.faults) == {"raised": 0, "hung": 1, "not_finite": 0, "outside": 0}
        assert env.faults.last == f"environment {victim} in its step: no answer within 2 s"
        obs, *_ = env.step(np.zeros((2, 2)))
        assert obs[1 - victim, 0] == 3.0
        assert obs[victim, 0] == 1.0 if mode is AutoresetMode.SAME_STEP else 0 <= obs[victim, 0] < 1
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["reset", "close"])
def test_a_reset_that_hangs_and_a_closing_that_hangs_are_ended(odd: None, tmp_path: Path, where: str) -> None:
    """A reset may take five times as long as a step; it closes what has failed before."""
    kwargs = {"hangs": {where: "sleep"}, "mark": str(tmp_path / "hung"), "faults": {"step_timeout": 0.6}}
    with closing(envs.make(Task(ODD, {**kwargs, "fails": 3 if where == "close" else 0}), 1, 0)) as env:
        env.reset()
        for _ in range(4):
            env.step(np.zeros((1, 2)))
        assert env.faults["hung"] == 1
        assert "in its reset: no answer within 3 s" in env.faults.last


def test_a_process_that_dies_is_a_fault_of_its_environments(odd: None, tmp_path: Path) -> None:
    task = Task(ODD, {"hangs": {"step": "crash"}, "mark": str(tmp_path / "dead")})
    with closing(envs.make(task, 4, 0, workers=2)) as env:
        env.reset()
        env.step(np.zeros((4, 2)))
        truncated = env.step(np.zeros((4, 2)))[3]
        assert truncated.tolist() in ([True, True, False, False], [False, False, True, True])
        assert dict(env.faults) == {"raised": 2, "hung": 0, "not_finite": 0, "outside": 0}
        assert "its process ended by SIGKILL" in env.faults.last
        assert env.step(np.zeros((4, 2)))[0][:, 0].tolist() == np.where(truncated, 1.0, 3.0).tolist()


ZOO = """
import os
import numpy as np
from gymnasium.spaces import Box, Discrete
from odd_games import Odd, hang

class parallel_env:
    possible_agents = ["red_0", "red_1"]
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, mark, render_mode=None):
        self.mark, self.render_mode = mark, render_mode

    def observation_space(self, agent):
        return Box(0, 99, (2,))

    def action_space(self, agent):
        return Discrete(3)

    def seen(self):
        return {agent: np.full(2, self.taken, np.float32) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.taken, self.agents = 0, list(self.possible_agents)
        return self.seen(), {}

    def step(self, actions):
        self.taken += 1
        if self.taken == 2 and self.mark and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            hang("compiled")
        flags = dict.fromkeys(self.agents, False)
        return self.seen(), {a: float(actions[a]) for a in self.agents}, flags, dict(flags), {}

    def render(self):
        return np.full((2, 2, 3), self.taken, np.uint8)

    def close(self):
        pass
"""


def test_an_environment_of_pettingzoo_that_hangs_is_ended(odd: None, tmp_path: Path) -> None:
    folder = Path(sys.modules["odd_games"].__file__ or "").parent
    (folder / "odd_zoo.py").write_text(ZOO)
    plain = Task("pettingzoo:odd_zoo", {"mark": ""})
    watched = Task("pettingzoo:odd_zoo", {"mark": str(tmp_path / "hung"), "faults": {"step_timeout": 1.0}})
    with closing(envs.make(plain, 4, 0)) as one, closing(envs.make(watched, 4, 0, render_mode="rgb_array")) as other:
        assert one.schemas == other.schemas
        np.testing.assert_array_equal(one.reset()[0], other.reset()[0])
        actions = np.array([0, 1, 2, 1])
        for a, b in zip(one.step(actions)[:4], other.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert [int(frame.mean()) for frame in other.render() or ()] == [1, 1]
        _, rewards, _, truncated, _ = other.step(actions)
        assert (rewards.tolist(), truncated.tolist()) == ([0, 0, 2, 1], [True, True, False, False])
        assert dict(other.faults) == {"raised": 0, "hung": 1, "not_finite": 0, "outside": 0}
        assert other.step(actions)[0][:, 0].tolist() == [1, 1, 3, 3]
    assert multiprocessing.active_children() == []


def test_batches_that_need_no_processes_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(envs.make(Task("Graft/Dodge-v0"), 4, 0, workers=4)) as env:
        env.reset()
        assert multiprocessing.active_children() == []
    with closing(envs.make(Task("CartPole-v1"), 1, 0, workers=4)) as env:
        assert not spread(env)
    with pytest.raises(GraftError, match="workers is 0; at least 1 process"):
        envs.make(Task("CartPole-v1"), 2, 0, workers=0)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=True))
    for kwargs, workers in ({}, 2), ({"faults": {"step_timeout": 1}}, 1):
        with pytest.raises(GraftError, match="needs processes for its environments, which a daemonic process may not"):
            envs.make(Task("CartPole-v1", kwargs), 2, 0, workers=workers)


def test_what_only_this_process_knows_gets_there() -> None:
    class Local(gym.Env[Any, Any]):
        observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

        def __init__(self, lock: Any = None) -> None:
            self.lock = lock

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return np.array([0.5], np.float32), {}

    gym.register("Local-v0", entry_point=Local)
    try:
        with closing(envs.make(Task("Local-v0"), 2, 0, workers=2)) as env:
            assert env.reset()[0].tolist() == [[0.5]] * 2
        task = Task("Local-v0", {"lock": threading.Lock()})
        with (
            closing(envs.make(task, 2, 0, workers=2)) as env,
            pytest.raises(GraftError, match=r"'Local-v0' cannot be made in another process .*; use workers=1"),
        ):
            env.reset()
    finally:
        del gym.registry["Local-v0"]


SCRIPT = """
import multiprocessing, sys
from graft import envs

if __name__ == "__main__":
    env = envs.make(envs.Task("odd_games:Odd-v0"), 2, 0, workers=2)
    env.reset()
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, killed: bool) -> None:
    """Whether it forgets to close, without a word of leaked resources, or is killed. The package is on PYTHONPATH."""
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
    assert complaints == "" or killed  # Gymnasium's workers say that their pipe broke
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
