"""Clips of an experiment: for each target, the source's agent before and after the change, scratch, and the best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments.plan.stage import Comparison, Graph
from graft.experiments.playback.agent import check_fit, playing
from graft.experiments.playback.frames import Frame, PlaybackStep, playback
from graft.experiments.playback.record import record
from graft.experiments.store.records import Store
from graft.transfer.method import label, method_name

FRAMES = 160
TITLE, MARGIN, WIDEST = 30, 6, 240  # pixels: rows of a title, between panels, and of a panel's width
INK, PAPER = (30, 30, 30), (255, 255, 255)


class Panel(NamedTuple):
    """One agent at play, and what is written above it."""

    title: str
    agent: Checkpoint
    task: Task


def panels(graph: Graph, store: Store, target: Task) -> list[Panel]:
    """The agents that a clip of ``target`` shows, all of the first seed; fewer where some are not there.

    The source's on its own task and, where it can play it, on the target; then scratch, and the method with the best
    mean of final returns over the seeds.
    """
    finished = [c for c in graph.comparisons if c.target == target and c.stages and all(map(store.done, c.stages))]
    methods = [c for c in finished if c.source is not None and c.stages != c.scratch]
    if not methods:
        return []
    best, found = max(methods, key=lambda c: _final_return(store, c)), []
    source = _source(graph, store, best)
    if source is not None:
        found.append(Panel("the source's agent, on its task", source, source.task))
        if source.task != target and _fits(source, target):
            found.append(Panel("the same agent, on the target", source, target))
    short = method_name(best.method)
    if len({label(c.method) for c in methods if method_name(c.method) == short}) > 1:
        short = label(best.method)
    for name, stage_ids in (("scratch", best.scratch), (short, best.stages)):
        if stage_ids and store.done(stage_ids[0]):
            steps = f"{graph.stages[stage_ids[0]].budget:,} steps later"
            found.append(Panel(f"{name}, {steps}", store.checkpoint(stage_ids[0]), target))
    return found


def _final_return(store: Store, comparison: Comparison) -> float:
    return float(np.mean([store.evaluations(i).scores[-1] for i in comparison.stages]))


def _source(graph: Graph, store: Store, comparison: Comparison) -> Checkpoint | None:
    """The agent of the first seed that the method starts from, if its task can be played here."""
    if comparison.source in graph.unplayable:
        return None
    if comparison.pretrain:
        return store.checkpoint(comparison.pretrain[0])
    return next(iter(graph.checkpoints.values()), None) if len(graph.checkpoints) == 1 else None


def _fits(agent: Checkpoint, task: Task) -> bool:
    try:
        check_fit(agent.schemas, task)
    except GraftError:
        return False
    return True


def write_clip(graph: Graph, store: Store, target: Task, seed: int = 0) -> str | None:
    """Write a GIF of a target's `panels` into the experiment's folder; returns its name, None without any panel.

    Raises:
        GraftError: a task that cannot be drawn, or a file that cannot be written.
    """
    found = panels(graph, store, target)
    if not found:
        return None
    number = list(dict.fromkeys(c.target for c in graph.comparisons)).index(target) + 1
    _write(store.out / f"clip_{number}.gif", found, seed)
    return f"clip_{number}.gif"


def _write(path: Path, shown: Sequence[Panel], seed: int) -> None:
    """The panels side by side, each for `FRAMES` frames, its episodes one after the other."""
    played = [_columns(panel, seed) for panel in shown]
    height = max(frame.shape[0] for _, frames in played for frame in frames)
    gap = np.full((height, MARGIN, 3), PAPER, np.uint8)

    def together(number: int) -> Frame:
        parts: list[Frame] = []
        for _, frames in played:
            frame = frames[number]
            below = np.full((height - frame.shape[0], frame.shape[1], 3), PAPER, np.uint8)
            parts += [gap, np.concatenate([frame, below])]
        return np.concatenate([*parts, gap], axis=1)

    fps = max(rate for rate, _ in played)
    record(path, fps, (PlaybackStep(together(n)) for n in range(FRAMES)), FRAMES, 1, lambda *_: None)


def _columns(panel: Panel, seed: int) -> tuple[float, list[Frame]]:
    """Frames a second of a panel, and its frames with the title and the returns so far above."""
    network, returns, frames = playing(panel.agent.build(), panel.task), list[float](), list[Frame]()
    with playback(network, panel.task, seed, deterministic=False) as (fps, steps):
        for step in islice(steps, FRAMES):
            if step.ended is not None:
                returns.append(step.ended.total)
            said = f"mean return {np.mean(returns):.1f} of {len(returns)}" if returns else "first episode"
            every = -(-step.frame.shape[1] // WIDEST)
            small = step.frame[::every, ::every]
            frames.append(np.concatenate([_title(f"{panel.title}\n{said}", small.shape[1]), small]))
        return fps, frames


@cache
def _title(text: str, width: int) -> Frame:
    """Lines of words above a picture of this width, (TITLE, width, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, TITLE), PAPER)
    ImageDraw.Draw(picture).multiline_text((0, 2), text, INK, ImageFont.load_default(10), spacing=2)
    shown: Any = np.asarray(picture)
    return np.array(shown, np.uint8)
