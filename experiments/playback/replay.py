"""A replay of an agent for its card: an MP4 where an encoder is installed, else a GIF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.factory import make
from graft.errors import GraftError, disk_error
from graft.experiments.playback.frames import PlaybackStep, play, play_squad, squad_size
from graft.experiments.playback.record import FASTEST, USUAL, record

FRAMES, EPISODES = 400, 3  # the longest replay
ENCODER = "imageio_ffmpeg"


def write_replay(checkpoint: Checkpoint, network: PolicyNetwork, seed: int, folder: Path) -> str | None:
    """Record greedy play into ``folder``; returns the file's name, None where the task cannot be drawn."""
    task, shown = checkpoint.task, network.schemas.observation
    squad = squad_size(task)
    reset = AutoresetMode.SAME_STEP if squad else AutoresetMode.NEXT_STEP
    name = "replay.gif" if find_spec(ENCODER) is None else "replay.mp4"
    try:
        with closing(make(task, squad or 1, seed, reset, observation=shown, render_mode="rgb_array")) as env:
            fps = min(FASTEST, env.metadata.get("render_fps") or USUAL)
            generator = torch.Generator().manual_seed(seed)
            steps = (play_squad if squad else play)(network, env, task, generator, True)
            if name.endswith(".gif"):
                record(folder / name, fps, steps, FRAMES, EPISODES, lambda *_: None)
            else:
                _write_mp4(folder / name, fps, steps)
    except GraftError as error:  # it is not drawn, or fails when it is
        if disk_error(error):
            raise
        return None
    return name


def _write_mp4(path: Path, fps: float, steps: Iterator[PlaybackStep]) -> None:
    import imageio.v2

    frames, ended = [], 0
    for step in islice(steps, FRAMES):
        frames.append(_even(step.frame))
        ended += step.ended is not None
        if ended == EPISODES:
            break
    write: Any = imageio.v2.mimwrite  # options are the plugin's
    write(path, frames, format="FFMPEG", fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=1)


def _even(frame: Any) -> Any:
    """A picture with an even number of rows and columns, which the codec needs; the last ones are repeated."""
    return np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
