"""Which method for a target? A race by successive halving, under a budget of env steps of all candidates together.

Candidates are compared by the returns of the same episodes (levels, action samples). Scratch, the baseline, is always
one of them, and what is not clearly better than it gives way to it.

Source: Jamieson & Talwalkar 2016, algorithm 1 (successive halving); Li et al. 2018 (Hyperband).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graft.errors import GraftError
from graft.transfer.statistics import CONFIDENCE, FloatArray

CLEARLY = 3.0
"""Standard errors of a paired difference by which one candidate has to lead: several are compared, several times."""

Returns = FloatArray
"""(n,): of n episodes, the same ones for all candidates."""

Train = Callable[[str, int], Returns | None]
"""``(candidate, env_steps) -> returns``: trains a candidate on until it has taken so many env steps in all (0: not at
all), and evaluates it; None where its training diverged.
"""


class Gain(NamedTuple):
    """Mean paired difference of returns, its 95 % interval, and the chance that the true one is above 0.

    They know the error that comes from episodes, not that of another training of the same.
    """

    mean: float
    low: float
    high: float
    probability: float


class Round(NamedTuple):
    """What a round of the race saw. ``env_steps``: of each candidate in it. ``dropped``: who left after it."""

    env_steps: int
    means: dict[str, float]
    dropped: tuple[str, ...]


class Race(NamedTuple):
    """How a race went.

    Attributes:
        pick: who goes on.
        rounds: the first is before any training.
        spent: candidate -> env steps.
        latest: candidate -> returns when it was last evaluated; without those that diverged.
        why: in words.
    """

    pick: str
    rounds: tuple[Round, ...]
    spent: dict[str, int]
    latest: dict[str, Returns]
    why: str


def gain(mine: npt.ArrayLike, theirs: npt.ArrayLike) -> Gain:
    """By how much returns (n,) are above others (n,) of the same episodes, by Student's t; n is at least 2."""
    from scipy import special

    apart = np.asarray(mine, np.float64) - np.asarray(theirs, np.float64)
    mean, error, freedom = float(apart.mean()), _error(apart), len(apart) - 1
    if error == 0:
        return Gain(mean, mean, mean, 0.5 + 0.5 * float(np.sign(mean)))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Gain(mean, mean - half, mean + half, float(special.stdtr(freedom, mean / error)))


def is_clear(mine: npt.ArrayLike, theirs: npt.ArrayLike) -> bool:
    """Whether returns (n,) are above others (n,) of the same episodes by `CLEARLY` standard errors."""
    apart = np.asarray(mine, np.float64) - np.asarray(theirs, np.float64)
    return bool(apart.mean() > 0 and apart.mean() >= CLEARLY * _error(apart))


def _error(apart: FloatArray) -> float:
    return float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else math.inf


def race(
    candidates: Sequence[str],
    train: Train,
    budget: int,
    unit: int = 1,
    baseline: str = "scratch",
    untrained: bool = True,
) -> Race:
    """Train candidates on, in rounds, and drop the worse half after each; the baseline stays to the end.

    Each round takes an equal share of what is left of the budget, shared out equally among those who are still in it.
    It ends early where one leads clearly over all others. Who leads in the end, but not clearly over the baseline,
    gives way to it.

    Args:
        candidates: names, one of them the baseline; of equal ones the first is taken.
        budget: env steps of all candidates together, which are never exceeded.
        unit: env steps of a training's smallest step, such as a rollout.
        untrained: whether a clear lead before training may end the race.
    Raises:
        GraftError: the baseline's training diverged.
    """
    rounds: list[Round] = []
    spent, latest, alive = dict.fromkeys(candidates, 0), dict[str, Returns](), list(candidates)
    number = max(1, math.ceil(math.log2(len(candidates))))

    def ranked() -> list[str]:
        """Who is in the race: the baseline, then the best first."""
        others = sorted((c for c in alive if c != baseline), key=lambda c: -latest[c].mean())
        return [baseline, *others]

    def play(env_steps: int) -> None:
        for name in list(alive):
            found, spent[name] = train(name, env_steps), env_steps
            if found is None:
                alive.remove(name)
                latest.pop(name, None)
            else:
                latest[name] = np.asarray(found, np.float64)
        rounds.append(Round(env_steps, {c: float(latest[c].mean()) for c in alive}, ()))

    def keep(count: int) -> None:
        left = ranked()[: max(2, count)]
        dropped = tuple(c for c in alive if c not in left)
        alive[:] = [c for c in alive if c in left]
        rounds[-1] = rounds[-1]._replace(dropped=rounds[-1].dropped + dropped)

    play(0)
    for index in range(number):
        left = (budget - sum(spent.values())) // unit
        settled = (untrained or index > 0) and _leader(alive, latest) is not None
        if baseline not in alive or len(alive) == 1 or settled or left < 2:
            break
        share = max(2, left // (number - index))
        keep(share)
        play(rounds[-1].env_steps + share // len(alive) * unit)
        if index + 1 < number and baseline in alive:
            keep(math.ceil(len(alive) / 2))
    pick, why = _decide(alive, latest, baseline)
    return Race(pick, tuple(rounds), spent, latest, why)


def _leader(alive: Sequence[str], latest: dict[str, Returns]) -> str | None:
    """Who is clearly above every other, if anybody is."""
    best = max(alive, key=lambda c: latest[c].mean())
    return best if all(is_clear(latest[best], latest[c]) for c in alive if c != best) else None


def _decide(alive: Sequence[str], latest: dict[str, Returns], baseline: str) -> tuple[str, str]:
    if baseline not in alive:
        raise GraftError(f"{baseline} diverged, so there is nothing to compare with; lower the learning rate.")
    best = max(alive, key=lambda c: latest[c].mean())
    if best == baseline:
        return baseline, "nothing was better"
    if not is_clear(latest[best], latest[baseline]):
        return baseline, f"{best} was best, but not clearly better"
    return best, f"clearly better than {baseline}"


class Watch(NamedTuple):
    """What was seen of a pick while it trained. ``env_steps``: when. ``kept``: who goes on. ``spent``: by each."""

    env_steps: int
    kept: str
    spent: dict[str, int]
    why: str


def watch(found: Race, train: Train, budget: int, unit: int = 1, baseline: str = "scratch") -> Watch | None:
    """Compare a pick that was made before any training with the baseline, once, as late as the budget allows.

    A pick that has become clearly better than it began needs no such check, as its clear lead has grown. Otherwise the
    baseline is trained for as many env steps, and takes the place of a pick that is not clearly better.

    Args:
        found: a race that has ended. budget: env steps of each of the two. unit: as of `race`.
    Returns:
        None where there is nothing to check, or the budget is too small.
    """
    pick, spent, steps = found.pick, dict(found.spent), budget // unit * unit
    if pick == baseline or spent[baseline] or steps == 0:
        return None
    now, spent[pick] = train(pick, steps), steps
    if now is not None and is_clear(now, found.latest[pick]):
        return Watch(steps, pick, spent, "it learns")
    theirs, spent[baseline] = train(baseline, steps), steps
    if now is not None and (theirs is None or is_clear(now, theirs)):
        return Watch(steps, pick, spent, f"it hardly learns, and is clearly better than {baseline}")
    return Watch(steps, baseline, spent, f"it is not clearly better than {baseline} after as many steps")
