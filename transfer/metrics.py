"""Transfer metrics: of learning curves, and of score matrices of task sequences.

Scores are normalised per task: 0 = random policy, 1 = expert. p is the curve of a method, b that of scratch, both on
the target and over the same env steps. ``scores`` is R (N, N): R[k, j] is the score on task j after training on task
k, tasks in the order in which they were learned; it must be square, and finite where it is used.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from graft.errors import GraftError
from graft.transfer.statistics import (
    CONFIDENCE,
    Estimate,
    FloatArray,
    Interval,
    Runs,
    holm,
    iqm_estimate,
    ratio_interval,
)

Verdict: TypeAlias = Literal["positive", "negative", "unclear"]

SMALLEST_DENOMINATOR = 0.01
"""In score units; a ratio with a smaller denominator is undefined."""

LEAST_SEEDS = 4
"""Of each group; below, no verdict is given."""


class Judgement(NamedTuple):
    """Whether a transfer helped, among all that were judged together.

    Attributes:
        verdict: "positive" or "negative" where a difference as large, between groups of one distribution, is seen in
            fewer than 5 % of *tables*; "unclear" otherwise.
        alone: the same as if it were the only one of its table: where the 95 % interval of the difference lies.
        p_value, corrected: two-sided, alone and after Holm's correction; None for fewer than 4 seeds.
    """

    verdict: Verdict
    alone: Verdict
    p_value: float | None
    corrected: float | None


@dataclass(frozen=True)
class Curve:
    """Evaluations of one run: normalised scores at env steps.

    Args:
        steps: env steps of the evaluations, whole numbers, strictly increasing, the first one 0.
        scores: as many finite numbers. Both are stored as tuples.
    Raises:
        GraftError: anything else.
    """

    steps: Sequence[int]
    scores: Sequence[float]

    def __post_init__(self) -> None:
        if any(not math.isfinite(step) or step != int(step) for step in self.steps):
            raise GraftError(f"A curve has env steps {list(self.steps)}; give whole numbers.")
        steps = tuple(int(step) for step in self.steps)
        scores = tuple(float(score) for score in self.scores)
        if len(steps) != len(scores):
            raise GraftError(f"A curve has {len(steps)} env steps and {len(scores)} scores; give as many of each.")
        if not steps or steps[0] != 0:
            first = f"starts at env step {steps[0]}" if steps else "is empty"
            raise GraftError(f"A curve {first}; the first evaluation belongs at step 0, before any training.")
        for before, after in itertools.pairwise(steps):
            if after <= before:
                raise GraftError(f"A curve has env step {after} after {before}; give strictly increasing steps.")
        for step, score in zip(steps, scores, strict=True):
            if not math.isfinite(score):
                raise GraftError(f"A curve has score {score} at env step {step}; give finite scores.")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "scores", scores)


def _check_same_grid(p: Curve, b: Curve) -> None:
    if p.steps == b.steps:
        return
    pairs = zip(p.steps, b.steps, strict=False)
    apart = next((f", first apart at {ours} and {theirs}" for ours, theirs in pairs if ours != theirs), "")
    raise GraftError(
        f"The method's curve has {len(p.steps)} evaluations up to env step {p.steps[-1]} and scratch's has "
        f"{len(b.steps)} up to {b.steps[-1]}{apart}; evaluate both at the same env steps."
    )


def area(curve: Curve) -> float:
    """Time mean of a curve, in score units: (1 / T) * integral of score d step by the trapezoid rule, T the last step.

    Source: Wolczyk et al. 2021 (Continual World): AUC divided by the budget. Taylor & Stone 2009 leave it undivided.
    """
    if len(curve.steps) == 1:
        return curve.scores[0]
    return float(np.trapezoid(curve.scores, curve.steps)) / curve.steps[-1]


def jumpstart(p: Curve, b: Curve) -> float:
    """p(0) - b(0), before any training on the target (Taylor & Stone 2009); the curves have the same steps."""
    _check_same_grid(p, b)
    return p.scores[0] - b.scores[0]


def final_score(curve: Curve) -> float:
    """Mean score of the evaluations in the last 10 % of the curve: those with step >= 0.9 * last step.

    Source: Taylor & Stone 2009 for asymptotic performance; the share of 10 % is a convention of this project.
    """
    # Whole numbers: 0.9 * last rounds, and could lose the evaluation that lies exactly there.
    tail = [s for step, s in zip(curve.steps, curve.scores, strict=True) if 10 * step >= 9 * curve.steps[-1]]
    # statistics.mean is exact: the mean of three times 0.1 is 0.1, where a sum of floats gives a little more.
    return statistics.mean(tail)


def transfer_ratio(p_areas: Runs, b_areas: Runs) -> Interval | None:
    """(AUC_p - AUC_b) / AUC_b, with AUC the interquartile mean of the areas of a group's seeds.

    The 95 % interval knows the error of both groups (`ratio_interval`): it holds 0 where that of AUC_p - AUC_b does,
    and has no upper end where scratch's AUC may be 0.

    Args:
        p_areas: `area` of each seed of the method (or task name -> areas).
        b_areas: the same of scratch; the number of seeds may differ.
    Returns:
        Ratio with its interval; None (undefined, not infinite) where AUC_b < 0.01.
    Raises:
        GraftError: empty or non-finite scores.
    Source: Taylor & Stone 2009; Fieller 1954 for the interval.
    """
    p, b = iqm_estimate(p_areas), iqm_estimate(b_areas)
    return None if b.value < SMALLEST_DENOMINATOR else Interval(*(end - 1 for end in ratio_interval(p, b)))


def transfer_ratio_bound(p_areas: Runs, b_areas: Runs) -> float | None:
    """A lower bound where `transfer_ratio` is undefined because scratch's AUC is below 0.01.

    The lower end of the interval of AUC_p / AUC_b - 1, with an AUC_b of 0.01 and the error that it has; None where that
    is not above 0.

    Source: a convention of this project, for ratios that are censored by a small denominator.
    """
    p, b = iqm_estimate(p_areas), iqm_estimate(b_areas)
    bound = ratio_interval(p, b._replace(value=max(b.value, SMALLEST_DENOMINATOR))).low - 1
    return bound if bound > 0 else None


def break_even(before: float, slow: float, fast: float | None) -> int | None:
    """After how many transfers what came before them has paid: before / (slow - fast), rounded up.

    Args:
        before: env steps of pretraining and consolidation, which are spent once.
        slow, fast: env steps to the same score from scratch, and by the transfer (None: it never gets there).
    Returns:
        None where a transfer saves nothing.
    """
    if fast is None or fast >= slow:
        return None
    return math.ceil(before / (slow - fast))


def transfer_efficiency(before: float, slow: float, fast: float) -> float | None:
    """slow / (before + fast): scratch's env steps to a score, for each that a transfer takes with all before it.

    Args:
        before, slow, fast: as of `break_even`.
    Returns:
        Above 1 where the first transfer has paid already; None where neither took a step.
    """
    return slow / (before + fast) if before + fast else None


def steps_to_threshold(curve: Curve, threshold: float, hold: int = 3) -> int | None:
    """First env step from which the score stays >= threshold for ``hold`` consecutive evaluations, itself included.

    Returns:
        Env steps; None (right-censored at the last step) when never.
    Raises:
        GraftError: hold is below 1.
    Source: Taylor & Stone 2009 (time to threshold); holding it is a convention of this project.
    """
    if hold < 1:
        raise GraftError(f"A threshold must hold for at least 1 evaluation; got hold {hold}.")
    run = 0
    for index, score in enumerate(curve.scores):
        run = run + 1 if score >= threshold else 0
        if run == hold:
            return curve.steps[index - hold + 1]
    return None


def aggregate_steps_to_threshold(steps: Sequence[int | None]) -> float | None:
    """Median over seeds of the steps to a threshold, where None is a seed that never got there.

    Returns:
        Env steps; None where at least half of the seeds never got there.
    Raises:
        GraftError: no seeds.
    Source: the Kaplan-Meier median for a common censoring time (Kaplan & Meier 1958).
    """
    if not steps:
        raise GraftError("The median over no seeds is undefined; give at least one.")
    median = statistics.median(math.inf if step is None else step for step in steps)
    return None if math.isinf(median) else float(median)


def data_efficiency(p: Curve, b: Curve, hold: int = 1) -> float | None:
    """Steps scratch needs to reach its own final score / steps the method needs for the same score.

    With ``hold`` 1, scratch always reaches its own final score.

    Returns:
        Above 1 where the method is faster. None where a curve never gets there; ``math.inf`` where only the method is
        there at step 0; 1 where both are.
    Raises:
        GraftError: the curves differ in steps, or hold is below 1.
    Source: the ratio of times to threshold of Taylor & Stone 2009, at the threshold that scratch sets.
    """
    _check_same_grid(p, b)
    threshold = final_score(b)
    needed_b = steps_to_threshold(b, threshold, hold)
    needed_p = steps_to_threshold(p, threshold, hold)
    if needed_b is None or needed_p is None:
        return None
    if needed_p == 0:
        return 1.0 if needed_b == 0 else math.inf
    return needed_b / needed_p


def forward_transfer(p_area: float, b_area: float) -> float | None:
    """(AUC_p - AUC_b) / (1 - AUC_b): the share of what scratch leaves to gain.

    Args:
        p_area, b_area: of a curve (`area`), or the means of several, over the same steps.
    Returns:
        At most 1 for scores up to 1; None where 1 - AUC_b < 0.01: scratch leaves nothing to gain.
    Source: Wolczyk et al. 2021 (Continual World).
    """
    return None if 1 - b_area < SMALLEST_DENOMINATOR else (p_area - b_area) / (1 - b_area)


def difference(p: Runs, b: Runs) -> Estimate:
    """IQM(p) - IQM(b) with its error; the groups are of different runs, whose number may differ."""
    return iqm_estimate(p) - iqm_estimate(b)


def verdicts(pairs: Sequence[tuple[Runs, Runs]]) -> list[Judgement]:
    """Whether each of several transfers helped, by groups (p, b) of scores: of the method and of scratch.

    A pair with fewer than 4 runs in a group (or in one of its tasks) is "unclear" and counts for nothing.

    Source: Student's t of `difference`; Holm 1979 for the correction.
    """
    differences = [difference(p, b) for p, b in pairs]
    judged = [i for i, pair in enumerate(pairs) if min(map(_fewest, pair)) >= LEAST_SEEDS]
    p_values = [differences[i].p_value() for i in judged]
    found = [Judgement("unclear", "unclear", None, None)] * len(pairs)
    for i, alone, corrected in zip(judged, p_values, holm(p_values), strict=True):
        value = differences[i].value
        found[i] = Judgement(_verdict(value, corrected), _verdict(value, alone), alone, corrected)
    return found


def _verdict(value: float, p_value: float) -> Verdict:
    if p_value >= 1 - CONFIDENCE:
        return "unclear"
    return "positive" if value > 0 else "negative"


def _fewest(runs: Runs) -> int:
    """Number of runs of the task that has the fewest."""
    return min(map(len, runs.values()), default=0) if isinstance(runs, Mapping) else len(runs)


def _final_and_own(scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """R[N, j] and R[j, j] of every task j, each (N,); the other entries are unused and may be NaN."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise GraftError(f"The score matrix has shape {matrix.shape}; give (N, N), a row per task learned.")
    final, own = matrix[-1], np.diagonal(matrix)
    if not (np.isfinite(final).all() and np.isfinite(own).all()):
        raise GraftError("The score matrix has a value that is not finite in its last row or on its diagonal.")
    return final, own


def average_performance(scores: npt.ArrayLike) -> float:
    """Mean over the N tasks j of R[N, j]: the score on all tasks once the last is learned.

    Source: Wolczyk et al. 2021 (Continual World).
    """
    final, _ = _final_and_own(scores)
    return float(final.mean())


def forgetting(scores: npt.ArrayLike, include_last: bool = True) -> float:
    """Mean over tasks j of R[j, j] - R[N, j]: what was lost between a task's end and the end of all.

    Args:
        include_last: average over all N tasks, the last of which adds 0, as Continual World does; otherwise over the
            N - 1 before it, which is `backward_transfer` negated.
    Source: Wolczyk et al. 2021 (Continual World).
    """
    final, own = _final_and_own(scores)
    return float((own - final).mean()) if include_last else 0.0 - backward_transfer(scores)


def backward_transfer(scores: npt.ArrayLike) -> float:
    """Mean over the tasks j < N of R[N, j] - R[j, j]; negative where later tasks made earlier ones worse.

    Raises:
        GraftError: fewer than 2 tasks.
    Source: Lopez-Paz & Ranzato 2017, eq. 3.
    """
    final, own = _final_and_own(scores)
    if len(own) < 2:
        raise GraftError(f"Backward transfer is undefined for {len(own)} task; give at least 2.")
    return float((final - own)[:-1].mean())
