"""Records an agent that plays as a GIF; of a task for squads, one environment in which it plays the whole team."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.files import replace_file
from graft.envs.core.task import Task
from graft.errors import GraftError, some
from graft.experiments.playback.agent import agent_and_task, check_fit, playing
from graft.experiments.playback.frames import FASTEST, PlaybackStep, playback, until
from graft.transfer.task_heads import HEADS, tasks_learned

LAST_FRAME = 8
"""How many times as long as others the last frame of an episode is shown."""


def record(
    path: Path,
    fps: float,
    steps: Iterator[PlaybackStep],
    frames: int,
    episodes: int,
    on_frame: Callable[[int, PlaybackStep], None],
) -> tuple[int, int]:
    """Write a looped GIF of ``steps`` until so many episodes have ended, or so many frames are taken.

    Args:
        path: of the file, which is replaced when the new one is complete.
        fps: frames a second; GIF counts in hundredths of a second, so the pace is close to it, and 50 at most.
        on_frame: called with the number of frames so far, and the last step.
    Returns:
        How many frames were taken and how many episodes ended; raises GraftError where the file can't be written.
    """
    import imageio.v3

    delay = 10 * max(2, round(100 / fps))
    ended, durations, buffer = 0, [], io.BytesIO()
    writer: Any = imageio.v3.imopen(buffer, "w", extension=".gif", plugin="pillow")  # options are the plugin's
    with writer as gif:
        for step in until(steps, frames, episodes):
            durations.append(delay * (LAST_FRAME if step.ended else 1))
            # Frames are kept with a palette of 2 ** bits colours, and written on leaving, with all the durations.
            duration = durations if len(durations) > 1 else durations[0]
            gif.write(step.frame, is_batch=False, bits=8, duration=duration, loop=0)
            ended += step.ended is not None
            on_frame(len(durations), step)
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise GraftError(f"{path} cannot be written ({error.strerror}).") from error
    return len(durations), ended


def run(console: Console, options: argparse.Namespace) -> None:
    """Record as the options of ``graft watch`` say; raises GraftError for bad input."""
    path: Path = options.gif
    if options.fps is not None and not 0.1 <= options.fps <= FASTEST:
        raise GraftError(f"--fps {options.fps:g} is not allowed; give a number from 0.1 to {FASTEST}.")
    _check_target(path, options.force)
    checkpoint, task = agent_and_task(options.words)
    for note in _notes(checkpoint, task):
        console.print(f"Note: {note}", soft_wrap=True)
    network = playing(checkpoint.build(), task)
    with playback(network, task, options.seed, options.deterministic) as (usual, steps):
        fps = options.fps or usual
        written, ended = _record(console, fps, steps, options)
    if ended < options.episodes:
        note = f"Note: stopped at {written} frames, before episode {ended + 1} ended; --frames sets the limit."
        console.print(note, soft_wrap=True)
    size = path.stat().st_size / 1000
    console.print(f"{path}: {task}, {written} frames at {fps:g} a second, {size:,.0f} kB", soft_wrap=True)


def _record(
    console: Console, fps: float, steps: Iterator[PlaybackStep], options: argparse.Namespace
) -> tuple[int, int]:
    """`record`, with a progress bar on a terminal and a line for each episode."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("frames", total=options.frames)
        finished = 0

        def on_frame(written: int, step: PlaybackStep) -> None:
            nonlocal finished
            progress.update(bar, completed=written)
            if step.ended is not None:
                finished += 1
                console.print(f"episode {finished}: {step.ended}")

        return record(options.gif, fps, steps, options.frames, options.episodes, on_frame)


def _check_target(path: Path, force: bool) -> None:
    """Raises GraftError where the file can't be written, before anything is played."""
    if path.suffix.lower() != ".gif":
        raise GraftError(f"--gif {path} is not allowed; give a name that ends in .gif.")
    if not path.parent.is_dir():
        raise GraftError(f"There is no folder {path.parent} to write {path.name} into.")
    if path.exists() and not force:
        raise GraftError(f"{path} exists; choose another name, or give --force to replace it.")


def _notes(checkpoint: Checkpoint, task: Task) -> Iterator[str]:
    """What a viewer should know about this agent on this task; raises GraftError where it can't play it."""
    if absent := check_fit(checkpoint.schemas, task):
        yield f"{task} never shows {len(absent)} of what the agent looks for: {some(absent, 4)}."
    if tasks_learned(checkpoint.parts.get(HEADS, {})) > 1 and task != checkpoint.task:
        yield f"the agent learned several tasks and plays with the heads of the last one, {checkpoint.task}."
