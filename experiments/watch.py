"""Watch an agent: ``python -m experiments.watch CHECKPOINT TASK --gif FILE`` records how it plays.

Of a task for squads one environment is shown, in which the agent plays all of the task's team.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.progress import Progress

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint
from graft.agents.checkpoints.files import replace_file
from graft.command import command
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.core.task_string import split_words
from graft.envs.factory import make, schemas
from graft.errors import GraftError
from graft.experiments.playback.frames import PlaybackStep, play, play_squad, squad_size
from graft.transfer.task_heads import HEADS, tasks_learned

DRAWN = "rgb_array"
FASTEST, USUAL = 50, 10
"""Frames a second: the most that GIF players keep up with, and what is taken where a task says nothing."""

HELD = 8
"""How many times as long as others the last frame of an episode stays."""

EXAMPLES = """examples:
  python -m experiments.watch runs/mechanics/stages/27ab12 --gif gather.gif
  python -m experiments.watch runs/mechanics/stages/27ab12 slip=0.3 --gif slippery.gif --episodes 4
  python -m experiments.watch runs/mechanics/stages/27ab12 Graft/Gather-v0 palette=night --gif night.gif
  python -m experiments.watch CHECKPOINT minigrid:MiniGrid-DoorKey-6x6-v0 --gif door.gif --deterministic
  python -m experiments.watch runs/squads/stages/27ab12 Graft/Pursuit-v0 team=prey hunters=5 --gif pursuit.gif

Of a squad, the agent plays the whole team, the first team being blue, and the return is the mean over the team.
Pictures show the board as it is, also where the agent's view of it is mirrored, fogged or noisy.
"""


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint's folder, given that or the folder of the stage that made it."""
    inner = folder / "checkpoint"
    return inner if not (folder / MANIFEST).exists() and inner.is_dir() else folder


def agent_and_task(words: Sequence[str]) -> tuple[Checkpoint, Task]:
    """The agent and the task that ``CHECKPOINT [TASK] [key=value ...]`` means; without a task, the agent's own.

    Raises:
        GraftError: other words, or no such checkpoint.
    """
    alone, keywords = split_words(words)
    if not 1 <= len(alone) <= 2:
        raise GraftError("Give a checkpoint, then perhaps a task's id, then perhaps its keywords as key=value.")
    checkpoint = Checkpoint.load(find_checkpoint(Path(alone[0])))
    own = checkpoint.task
    return checkpoint, Task(alone[1], keywords) if len(alone) == 2 else Task(own.id, {**own.kwargs, **keywords})


def check_fit(network: Schemas, task: Task) -> list[str]:
    """Names that the agent looks for and ``task`` never shows; they stay zero.

    Raises:
        GraftError: an agent of such schemas can't play the task; the text names the difference.
    """
    shown = schemas(task)
    differences = [*_unseen(network.observation, shown.observation), *_unplayable(network.action, shown.action)]
    if differences:
        raise GraftError(f"This agent cannot play {task}: {'; '.join(differences)}.")
    return [name for name in network.observation.names if name not in shown.observation.names]


def _unseen(own: ObservationSchema, shown: ObservationSchema) -> Iterator[str]:
    def layout(schema: ObservationSchema) -> str:
        return f"{schema.kind} of {schema.dtype}" + "".join(f" x {n}" for n in schema.shape[1:])

    if layout(own) != layout(shown):
        yield f"it sees {layout(own)}, the task shows {layout(shown)}"
    elif new := [name for name in shown.names if name not in own.names]:
        yield f"the task shows {', '.join(new)}, the agent knows only {', '.join(own.names)}"


def _unplayable(own: ActionSchema, taken: ActionSchema) -> Iterator[str]:
    if (own.kind, own.names, own.sizes) != (taken.kind, taken.names, taken.sizes):
        yield f"it plays {own.kind} actions ({', '.join(own.names)}), the task takes {taken.kind} ones " + (
            f"({', '.join(taken.names)})"
        )
    elif (own.low, own.high) != (taken.low, taken.high):
        yield f"its actions lie from {own.low} to {own.high}, the task's from {taken.low} to {taken.high}"


def record(
    path: Path,
    fps: float,
    seen: Iterator[PlaybackStep],
    frames: int,
    episodes: int,
    said: Callable[[int, PlaybackStep], None],
) -> tuple[int, int]:
    """Write a GIF of what is seen until so many episodes have ended, or so many frames are taken.

    The file appears when it is complete; it repeats for ever.

    Args:
        path: of the file, which is replaced.
        fps: frames a second; GIF counts in hundredths of a second, so the pace is close to it, and 50 at most.
        said: told the number of frames so far, and the last step.
    Returns:
        How many frames were taken and how many episodes ended.
    Raises:
        GraftError: the file can't be written.
    """
    import imageio.v3

    delay = 10 * max(2, round(100 / fps))
    ended, durations, buffer = 0, [], io.BytesIO()
    writer: Any = imageio.v3.imopen(buffer, "w", extension=".gif", plugin="pillow")  # options are the plugin's
    with writer as gif:
        for step in seen:
            durations.append(delay * (HELD if step.ended else 1))
            # Frames are kept with a palette of 2 ** bits colours, and written on leaving, with all the durations.
            stays = durations if len(durations) > 1 else durations[0]
            gif.write(step.frame, is_batch=False, bits=8, duration=stays, loop=0)
            ended += step.ended is not None
            said(len(durations), step)
            if ended == episodes or len(durations) == frames:
                break
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise GraftError(f"{path} cannot be written ({error.strerror}).") from error
    return len(durations), ended


def run(console: Console, options: argparse.Namespace) -> None:
    """Record what the arguments ask for.

    Raises:
        GraftError: bad input of any kind.
    """
    path: Path = options.gif
    _check_target(path, options.force)
    checkpoint, task = agent_and_task(options.words)
    for note in _notes(checkpoint, task):
        console.print(f"Note: {note}", soft_wrap=True)
    network = checkpoint.build()
    squad, shown = squad_size(task), network.schemas.observation
    reset = AutoresetMode.SAME_STEP if squad else AutoresetMode.NEXT_STEP
    env = make(task, squad or 1, options.seed, reset, observation=shown, render_mode=DRAWN)
    try:
        fps = options.fps or min(FASTEST, env.metadata.get("render_fps") or USUAL)
        generator = torch.Generator().manual_seed(options.seed)
        seen = (play_squad if squad else play)(network, env, task, generator, options.deterministic)
        written, ended = _record(console, fps, seen, options)
    finally:
        env.close()
    if ended < options.episodes:
        console.print(
            f"Note: stopped at {written} frames, before episode {ended + 1} ended; --frames sets the limit.",
            soft_wrap=True,
        )
    size = path.stat().st_size / 1000
    console.print(f"{path}: {task}, {written} frames at {fps:g} a second, {size:,.0f} kB", soft_wrap=True)


def _record(console: Console, fps: float, seen: Iterator[PlaybackStep], options: argparse.Namespace) -> tuple[int, int]:
    """`record`, with a progress bar on a terminal and a line for each episode."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("frames", total=options.frames)
        finished = 0

        def said(written: int, step: PlaybackStep) -> None:
            nonlocal finished
            progress.update(bar, completed=written)
            if step.ended is not None:
                finished += 1
                console.print(f"episode {finished}: {step.ended}")

        return record(options.gif, fps, seen, options.frames, options.episodes, said)


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
    absent = check_fit(checkpoint.schemas, task)
    if absent:
        yield f"{task} never shows {', '.join(absent)}, which the agent looks for."
    if tasks_learned(checkpoint.parts.get(HEADS, {})) > 1 and task != checkpoint.task:
        yield f"the agent learned several tasks and plays with the heads of the last one, {checkpoint.task}."


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.watch",
        description="Record an agent from a checkpoint while it plays a task.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "words",
        nargs="+",
        metavar="CHECKPOINT | TASK | key=value",
        help="folder of a checkpoint or of its stage; a task's id (default: the agent's own) and keywords",
    )
    made.add_argument("--gif", type=Path, required=True, metavar="FILE", help="animation to write")
    made.add_argument("--episodes", type=int, default=2, metavar="N", help="stop after so many (2)")
    made.add_argument("--frames", type=int, default=500, metavar="N", help="stop after so many at the latest (500)")
    made.add_argument("--fps", type=float, metavar="F", help=f"frames a second, up to {FASTEST} (the task's own)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the task and of sampled actions (0)")
    made.add_argument("--deterministic", action="store_true", help="play the most likely action, not a sample")
    made.add_argument("--force", action="store_true", help="replace the file where it exists")
    return made


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_intermixed_args(arguments)
    if options.episodes < 1 or options.frames < 1:
        parser().error("--episodes and --frames must be at least 1")
    if options.fps is not None and not 0.1 <= options.fps <= FASTEST:
        parser().error(f"--fps must be from 0.1 to {FASTEST}")
    torch.set_num_threads(1)
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # pygame, which draws for Gymnasium, looks for a sound card
    run(Console(highlight=False, markup=False), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
