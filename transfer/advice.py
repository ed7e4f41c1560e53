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


class Look(NamedTuple):
    """What a candidate showed: returns (n,) of its episodes, the env steps that it has trained in all, and those that
    its episodes took, which are no part of them.
    """

    returns: Returns
    env_steps: int
    episode_steps: int


Train = Callable[[str, int], Look | None]
"""``(candidate, env_steps) -> look``: trains a candidate on until it has taken so many env steps in all (0: not at
all), and evaluates it; None where its training diverged.
"""


class Gain(NamedTuple):
    """Mean paired difference of returns, its 95 % interval, and the p value of a one-sided test that it is above 0.

    They know the error that comes from episodes, not that of another training of the same.
    """

    mean: float
    low: float
    high: float
    p: float


class Round(NamedTuple):
    """What a round of the race saw. ``env_steps``: of each candidate in it. ``dropped``: who left after it."""

    env_steps: int
    means: dict[str, float]
    dropped: tuple[str, ...]


class Race(NamedTuple):
    """How a race went.

    Attributes:
        pick: who goes on.
        rounds: one of 0 env steps is a look before any training.
        spent: candidate -> env steps of training.
        episode_steps: env steps of all episodes by which candidates were compared; they are no part of ``spent``.
        latest: candidate -> returns when it was last evaluated; without those that diverged.
        why: in words.
    """

    pick: str
    rounds: tuple[Round, ...]
    spent: dict[str, int]
    episode_steps: int
    latest: dict[str, Returns]
    why: str


def gain(mine: npt.ArrayLike, theirs: npt.ArrayLike) -> Gain:
    """By how much returns (n,) are above others (n,) of the same episodes, by Student's t; n is at least 2."""
    from scipy import special

    apart = np.asarray(mine, np.float64) - np.asarray(theirs, np.float64)
    mean, error, freedom = float(apart.mean()), _error(apart), len(apart) - 1
    if error == 0:
        return Gain(mean, mean, mean, 0.5 - 0.5 * float(np.sign(mean)))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Gain(mean, mean - half, mean + half, float(special.stdtr(freedom, -mean / error)))


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
    goes_on: bool = False,
) -> Race:
    """Train candidates on, in rounds, and drop the worse half after each; the baseline stays to the end.

    Each round takes an equal share of what is left of the budget, shared out equally among those who are still in it.
    Of two rounds or more, the first trains everybody; only where the budget has too few units for that, the worst by a
    look before training leave first. It ends early, after a round of training, where one leads clearly over all others
    that are left. Who leads in the end, but not clearly over the baseline, gives way to it.

    Args:
        candidates: names, one of them the baseline; of equal ones the first is taken.
        budget: env steps of training, which are never exceeded by more than a candidate takes over what was asked.
        unit: env steps of a training's smallest step, such as a rollout.
        goes_on: whether the pick trains on from there: its own env steps are then not of the budget.
    Raises:
        GraftError: the baseline's training diverged.
    """
    rounds: list[Round] = []
    spent, latest, alive = dict.fromkeys(candidates, 0), dict[str, Returns](), list(candidates)
    number, free, played = max(2, math.ceil(math.log2(len(candidates)))), int(goes_on), [0]

    def units() -> int:
        """Of the budget that is left."""
        return (budget - sum(spent.values()) + free * max(spent.values())) // unit

    def play(env_steps: int) -> None:
        for name in list(alive):
            look = train(name, env_steps)
            if look is None:
                spent[name] = env_steps
                alive.remove(name)
                latest.pop(name, None)
            else:
                spent[name], latest[name] = look.env_steps, np.asarray(look.returns, np.float64)
                played[0] += look.episode_steps
        rounds.append(Round(env_steps, {c: float(latest[c].mean()) for c in alive}, ()))

    def keep(count: int) -> None:
        others = sorted((c for c in alive if c != baseline), key=lambda c: -latest[c].mean())
        left = [baseline, *others][: max(2, count)]
        dropped = tuple(c for c in alive if c not in left)
        alive[:] = [c for c in alive if c in left]
        rounds[-1] = rounds[-1]._replace(dropped=rounds[-1].dropped + dropped)

    if len(alive) == 1 or len(alive) > units() + free:
        play(0)
        keep(units() + free)
    for index in range(number):
        left, trained = units(), any(round_.env_steps for round_ in rounds)
        settled = trained and _leader(alive, latest) is not None
        if baseline not in alive or len(alive) == 1 or settled or left + free < 2:
            break
        share = max(left // (number - index), (2 if trained else len(alive)) - free)
        if trained:
            keep(share + free)
        play((rounds[-1].env_steps if rounds else 0) + share // (len(alive) - free) * unit)
        if index + 1 < number and baseline in alive:
            keep(math.ceil(len(alive) / 2))
    pick, why = _decide(alive, latest, baseline)
    return Race(pick, tuple(rounds), spent, played[0], latest, why)


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
