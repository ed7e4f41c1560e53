"""Metrics of lifelong learning over blocks of training and of tests, as the tool l2metrics defines them.

A run is a sequence of blocks, each of one task: of training, or a test that changes nothing. A single-task expert is a
run that learned one task alone, which here is scratch. Scores are meant to be above 0, as ratios are taken: 0 = random
policy, 1 = expert.

Source: New et al. 2022, "Lifelong Learning Metrics"; l2metrics 3.1.0 (github.com/lifelong-learning-systems/l2metrics),
with its default methods: references by evaluation ("mrlep") for performance maintenance, and a mean over experts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from graft.transfer.statistics import FloatArray

TERMINAL = 0.1
"""Share at the end of a training block over which its score is averaged; tests are averaged whole."""

WINDOW, LARGEST_WINDOW = 0.2, 100
"""Of the moving average: a share of the scores, and at most so many."""

LEAST_SATURATION = 0.2
"""Share of the expert's saturation below which nothing was learned, so that the sample efficiency is 0."""

Experts: TypeAlias = Mapping[str, Sequence[Sequence[float]]]
"""Task -> the scores of each of its single-task experts while it learned."""


class Block(NamedTuple):
    """Scores on one task in the order in which they were measured."""

    kind: Literal["train", "test"]
    task: str
    scores: Sequence[float]

    @property
    def terminal(self) -> float:
        """Mean score of a test, and of the last tenth of a training block."""
        share = TERMINAL if self.kind == "train" else 1.0
        return float(np.mean(self.scores[int((1 - share) * len(self.scores)) :]))


class Change(NamedTuple):
    """Scores on a task in the tests before and after another one was trained."""

    before: float
    after: float

    @property
    def ratio(self) -> float | None:
        """after / before; None for 0 before."""
        return None if self.before == 0 else self.after / self.before

    @property
    def contrast(self) -> float | None:
        """(after - before) / (after + before), between -1 and 1 for scores above 0; None where they add up to 0."""
        total = self.before + self.after
        return None if total == 0 else (self.after - self.before) / total


Changes: TypeAlias = dict[tuple[str, str], list[Change]]
"""(task trained, task tested) -> its changes in order."""


def smoothed(scores: Sequence[float]) -> FloatArray:
    """Moving average over a fifth of the scores, mirrored at the ends; fewer than 15 scores stay as they are."""
    from scipy.ndimage import uniform_filter1d

    values = np.asarray(scores, np.float64)
    window = min(int(WINDOW * len(values)), LARGEST_WINDOW)
    # An odd window reaches one further back than forward.
    return values if window < 3 else np.asarray(uniform_filter1d(values, window, mode="mirror", origin=window % 2))


def _tested(blocks: Sequence[Block], task: str) -> list[int]:
    return [i for i, block in enumerate(blocks) if block.task == task and block.kind == "test"]


def _trained(blocks: Sequence[Block], task: str) -> list[int]:
    return [i for i, block in enumerate(blocks) if block.task == task and block.kind == "train"]


def tasks_of(blocks: Sequence[Block]) -> list[str]:
    """Tasks by the first block that they are in."""
    return list(dict.fromkeys(block.task for block in blocks))


def performance_maintenance(blocks: Sequence[Block]) -> dict[str, float]:
    """Per task, mean of its test scores minus that of the first test after it was last trained; below 0 if it forgets.

    That first test, and those before any training, do not count. Tasks without any other test are left out.
    """
    found = {}
    for task in tasks_of(blocks):
        tests = _tested(blocks, task)
        references = [min((t for t in tests if t > i), default=None) for i in _trained(blocks, task)]
        differences = []
        for test in tests:
            earlier = [r for r in references if r is not None and r < test]
            if earlier and test not in references:
                differences.append(blocks[test].terminal - blocks[max(earlier)].terminal)
        if differences:
            found[task] = float(np.mean(differences))
    return found


def transfers(blocks: Sequence[Block]) -> tuple[Changes, Changes]:
    """Forward and backward transfer: how the test of one task changed while another was trained.

    Forward before the tested task's own first training, backward after it. Where several tasks were trained between
    two tests, the change is the last one's.
    """
    forward: Changes = {}
    backward: Changes = {}
    for task in tasks_of(blocks):
        own = min(_trained(blocks, task), default=math.inf)
        for before, after in itertools.pairwise(_tested(blocks, task)):
            between = [i for i in range(before, after) if blocks[i].kind == "train" and blocks[i].task != task]
            if between:
                kind = forward if between[-1] < own else backward
                change = Change(blocks[before].terminal, blocks[after].terminal)
                kind.setdefault((blocks[between[-1]].task, task), []).append(change)
    return forward, backward


def _learning(blocks: Sequence[Block], task: str) -> list[float]:
    return [score for i in _trained(blocks, task) for score in blocks[i].scores]


def relative_performance(blocks: Sequence[Block], experts: Experts) -> dict[str, float]:
    """Per task, the sum of its training scores over that of an expert after as many, averaged over experts."""
    found = {}
    for task in tasks_of(blocks):
        own, ratios = _learning(blocks, task), []
        for expert in experts.get(task, []):
            count = min(len(own), len(expert))
            total = float(np.sum(expert[:count]))
            if own and total != 0:
                ratios.append(float(np.sum(own[:count])) / total)
        if ratios:
            found[task] = float(np.mean(ratios))
    return found


def _saturation(scores: Sequence[float]) -> tuple[float, int]:
    """Largest smoothed score, and after how many scores it is first reached."""
    values = smoothed(scores)
    return float(values.max()), int(values.argmax())


def sample_efficiency(blocks: Sequence[Block], experts: Experts) -> dict[str, float]:
    """Per task, ratio of saturations to an expert times the inverse ratio of scores needed, averaged over experts.

    0 where the training scores fall, or saturate below a fifth of the expert's. Tasks that are saturated by their first
    score are left out, as are such experts.
    """
    found = {}
    for task in tasks_of(blocks):
        own = _learning(blocks, task)
        if len(own) < 2:
            continue
        level, needed = _saturation(own)
        falls = np.polyfit(np.arange(len(own)), own, 1)[0] < 0
        values = []
        for expert in experts.get(task, []):
            target, needed_by_expert = _saturation(expert)
            if needed and needed_by_expert and target != 0:
                learned = level >= LEAST_SATURATION * target and not falls
                values.append(level / target * needed_by_expert / needed if learned else 0.0)
        if values:
            found[task] = float(np.mean(values))
    return found


def lifelong_metrics(blocks: Sequence[Block], experts: Experts) -> dict[str, float | None]:
    """The suite as one number each: means over tasks, and over pairs of tasks of their first change, as in l2metrics.

    Transfer as a ratio (1: no change) and as a contrast (0: no change). None for what the blocks do not measure.
    """
    values: dict[str, Iterable[float | None]] = {
        "performance_maintenance": performance_maintenance(blocks).values(),
        "relative_performance": relative_performance(blocks, experts).values(),
        "sample_efficiency": sample_efficiency(blocks, experts).values(),
    }
    for name, changes in zip(("forward", "backward"), transfers(blocks), strict=True):
        values[f"{name}_transfer_ratio"] = [pair[0].ratio for pair in changes.values()]
        values[f"{name}_transfer_contrast"] = [pair[0].contrast for pair in changes.values()]
    return {name: _mean(found) for name, found in values.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
