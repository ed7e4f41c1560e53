"""Frames of an agent, or a squad, that plays a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.adapters.pettingzoo.batch import PettingZooBatch
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.core.team_rows import TeamRows
from graft.envs.factory import make
from graft.errors import GraftError

Frame = NDArray[np.uint8]

FASTEST, USUAL = 50, 10
"""Frames a second: the most that GIF players keep up with, and the default where a task has none."""


class EpisodeEnd(NamedTuple):
    """Return of an episode (of a squad, the mean over its agents), its steps, and the team that won, if any can."""

    total: float
    length: int
    outcome: str = ""

    def __str__(self) -> str:
        won = f", {self.outcome} won" if self.outcome else ""
        return f"return {self.total:.2f} in {self.length} steps{won}"


class PlaybackStep(NamedTuple):
    """A frame (H, W, 3) uint8, and the end of the episode, of which it is the last frame."""

    frame: Frame
    ended: EpisodeEnd | None = None


def squad_size(task: Task) -> int:
    """Number of agents of the task's team in one environment; 0 for a single-agent task."""
    with closing(make(task, 1, 0)) as env:
        return len(env.slots) if isinstance(env, TeamRows) else 0


@contextmanager
def playback(
    network: PolicyNetwork, task: Task, seed: int, deterministic: bool
) -> Iterator[tuple[float, Iterator[PlaybackStep]]]:
    """Frames a second of a task, and its frames as `play` and `play_squad` give them, in an environment of its own."""
    squad, shown = squad_size(task), network.schemas.observation
    reset = AutoresetMode.SAME_STEP if squad else AutoresetMode.NEXT_STEP
    with closing(make(task, squad or 1, seed, reset, observation=shown, render_mode="rgb_array")) as env:
        generator = torch.Generator().manual_seed(seed)
        steps = (play_squad if squad else play)(network, env, task, generator, deterministic)
        yield min(FASTEST, env.metadata.get("render_fps") or USUAL), steps


def until(steps: Iterator[PlaybackStep], frames: int, episodes: int) -> Iterator[PlaybackStep]:
    """The first of ``steps``, until so many episodes have ended, or so many frames are taken."""
    ended = 0
    for step in islice(steps, frames):
        yield step
        ended += step.ended is not None
        if ended == episodes:
            return


def play(
    network: PolicyNetwork, env: TaskVectorEnv, task: Task, generator: torch.Generator, deterministic: bool
) -> Iterator[PlaybackStep]:
    """A frame for each reset and each step of ``network``, without end.

    Args:
        env: a batch of one under next-step autoreset.
        task: of ``env``, for error messages.
        generator: of the action samples.
        deterministic: play the most likely action (or the mean) instead of a sample.
    """
    network.eval()
    obs = env.reset()[0]
    yield PlaybackStep(_frame(env, task))
    total, length, waiting = 0.0, 0, False
    while True:
        obs, rewards, terminated, truncated, _ = env.step(network.act(obs, generator, deterministic).numpy())
        if waiting:  # this step was the reset
            total, length, waiting = 0.0, 0, False
            yield PlaybackStep(_frame(env, task))
            continue
        total, length = total + float(rewards[0]), length + 1
        waiting = bool(terminated[0] or truncated[0])
        yield PlaybackStep(_frame(env, task), EpisodeEnd(total, length) if waiting else None)


def play_squad(
    network: PolicyNetwork, env: TaskVectorEnv, task: Task, generator: torch.Generator, deterministic: bool
) -> Iterator[PlaybackStep]:
    """`play` of a squad: ``network`` plays all rows, the task's rule the opponents.

    Args:
        env: `TeamRows` of one environment, which is reset in the step that ends a game and gives its last frame in
            the infos.
    """
    network.eval()
    obs, infos = env.reset()
    frame = _frame(env, task)
    yield PlaybackStep(frame)
    total, length, played = 0.0, 0, infos["alive"]
    while True:
        obs, rewards, _, _, infos = env.step(network.act(obs, generator, deterministic).numpy())
        total, length = total + float(rewards.sum()), length + 1
        if infos["over"].any():
            mean = total / max(1, int(played.sum()))
            if infos["final_frame"][0] is not None:  # an environment that failed is not drawn
                frame = _picture(infos["final_frame"], task)
            yield PlaybackStep(frame, EpisodeEnd(mean, length, _outcome(env, infos)))
            total, length, played = 0.0, 0, infos["alive"]
        frame = _frame(env, task)
        yield PlaybackStep(frame)
        played = played | infos["alive"]


def _outcome(env: Any, infos: dict[str, Any]) -> str:
    """The team that won, where the environment knows."""
    winner = int(infos["winner"][0])
    if isinstance(env.squad, PettingZooBatch):
        return ""
    return "nobody" if winner < 0 else tuple(env.squad.teams)[winner]


def _frame(env: TaskVectorEnv, task: Task) -> Frame:
    try:
        return _picture(env.render(), task)
    except GraftError:
        raise
    except Exception as error:  # of the environment's own code or its graphics library
        raise GraftError(f"Task {task} cannot be drawn: {type(error).__name__}, {error}.") from error


def _picture(shown: Any, task: Task) -> Frame:
    if not shown or not isinstance(shown[0], np.ndarray):
        raise GraftError(f"Task {task} cannot be drawn: it renders no picture.")
    if shown[0].ndim != 3 or shown[0].shape[2] != 3:
        raise GraftError(f"Task {task} cannot be drawn: a picture is (H, W, 3), and it renders {shown[0].shape}.")
    return np.asarray(shown[0], np.uint8)
