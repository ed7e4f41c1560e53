"""A replay of an agent for its card: an MP4 where an encoder is installed, else a GIF."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.errors import GraftError, disk_error
from graft.experiments.playback.frames import PlaybackStep, playback, until
from graft.experiments.playback.record import record

FRAMES, EPISODES = 400, 3  # the longest replay
ENCODER = "imageio_ffmpeg"


def write_replay(checkpoint: Checkpoint, network: PolicyNetwork, seed: int, folder: Path) -> str | None:
    """Record greedy play into ``folder``; returns the file's name, None where the task cannot be drawn."""
    name = "replay.gif" if find_spec(ENCODER) is None else "replay.mp4"
    try:
        with playback(network, checkpoint.task, seed, deterministic=True) as (fps, steps):
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

    frames = [_even(step.frame) for step in until(steps, FRAMES, EPISODES)]
    write: Any = imageio.v2.mimwrite  # options are the plugin's
    write(path, frames, format="FFMPEG", fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=1)


def _even(frame: Any) -> Any:
    """A picture with an even number of rows and columns, which the codec needs; the last ones are repeated."""
    return np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
