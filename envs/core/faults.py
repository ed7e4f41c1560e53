"""Faults of third-party environments: their kinds, how many are allowed, and the error that ends a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from graft.envs.core.options import build_options
from graft.errors import GraftError, unknown

KEYWORD = "faults"  # the task's keyword for `FaultRules`, unless the environment's constructor has one of that name

KINDS = ("raised", "hung", "not_finite", "outside")
"""An exception; no answer in time; a reward or observation that is NaN or infinite; an observation of another shape or
type than its space, or a category that the space does not have."""

LOOSE_BOUNDS = ("LunarLander", "BipedalWalker")
"""Gymnasium's own tasks whose bounds are those of usual play and not of all states."""


@dataclass(frozen=True)
class FaultRules:
    """What counts as a fault and how many are allowed: ``kwargs: {faults: {limit: 50}}`` of a task.

    Attributes:
        limit: a run ends when more faults than this fall within ``window`` env steps of one batch.
        window: env steps, of all environments of the batch together.
        step_timeout: seconds that a step may take; a reset, which may make the environment, five times as long. Then
            every environment has a process of its own, which is ended when it hangs. None is for ever.
        outside: whether values outside their space are clipped to its bounds, and counted; ``false`` passes them on as
            they are. None is for all but `LOOSE_BOUNDS`.
    """

    limit: Annotated[int, Field(ge=0)] = 10
    window: Annotated[int, Field(ge=1)] = 10_000
    step_timeout: Annotated[float, Field(gt=0)] | None = None
    outside: bool | None = None


def split_rules(
    task_id: str, kwargs: Mapping[str, Any], takes: Iterable[str] = (), offered: Sequence[str] | None = None
) -> tuple[FaultRules, dict[str, Any]]:
    """The rules among a task's keywords, and the other keywords; raises GraftError for rules that are not allowed.

    ``takes`` are keywords of the environment's constructor, ``offered`` the rules that its provider can keep.
    """
    rest = dict(kwargs)
    if KEYWORD not in rest or KEYWORD in takes:
        return FaultRules(), rest
    given = rest.pop(KEYWORD)
    if not isinstance(given, Mapping):
        raise GraftError(f"{KEYWORD}={given!r} of {task_id} is not allowed; give rules, such as {{limit: 10}}.")
    kind = f"{KEYWORD} of {task_id}"
    for name in given:
        if offered is not None and name not in offered:
            raise unknown(f"option of {kind}", str(name), offered)
    return build_options(kind, FaultRules, given), rest


class Faults(dict[str, int]):
    """Kind -> how often environments failed so, each failure followed by a restart.

    ``last`` is the text of the last failure, and ``error`` what it raised, if it did; that is not pickled.
    ``clipped`` is how many observations left their bounds and were clipped, which is no fault; ``clipped_first`` is the
    first of them in words: feature, value and bounds.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(KINDS, 0))
        self.clipped, self.clipped_first = 0, ""
        self.last = ""
        self.error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "error": None}

    @property
    def total(self) -> int:
        return sum(self.values())

    def __str__(self) -> str:
        """``2 raised, 1 hung``."""
        return ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in self.items() if n) or "none"

    def metrics(self) -> dict[str, float]:
        """``env/faults``, ``env/faults_<kind>`` of those that happened and ``env/clipped``; nothing where none did."""
        found = {f"env/faults_{kind}": float(n) for kind, n in self.items() if n}
        clipped = {"env/clipped": float(self.clipped)} if self.clipped else {}
        return {"env/faults": float(self.total), **found, **clipped} if found else clipped

    def add(self, kind: str, text: str, error: BaseException | None = None) -> None:
        self[kind] += 1
        self.last, self.error = text, error


def sum_faults(parts: Iterable[Faults]) -> Faults:
    """The faults of several batches."""
    whole = Faults()
    for part in parts:
        for kind, n in part.items():
            whole[kind] += n
        whole.last = part.last or whole.last
        whole.clipped += part.clipped
        whole.clipped_first = whole.clipped_first or part.clipped_first
    return whole


class TooManyFaults(GraftError):
    """Environments failed more often than the task's rules allow.

    ``task`` is its id, ``faults`` those of the batch, and ``env_steps`` those of the training that it ended.
    """

    def __init__(self, task: str, faults: Faults, message: str) -> None:
        super().__init__(message)
        self.task, self.faults, self.env_steps = task, faults, 0

    def __reduce__(self) -> Any:
        return type(self), (self.task, self.faults, str(self)), vars(self)


class FaultLog:
    """Counts the faults of a batch of ``task`` (an id), and ends the run when there are too many."""

    def __init__(self, task: str, rules: FaultRules) -> None:
        self._task, self._rules = task, rules
        self._steps, self._recent = 0, deque[int]()
        self.faults = Faults()

    def count_steps(self, env_steps: int) -> None:
        self._steps += env_steps

    def add(self, kind: str, text: str, error: BaseException | None = None) -> None:
        """Count a fault; `check` raises where there are too many."""
        self.faults.add(kind, text, error)
        self._recent.append(self._steps)

    def clip(self, observations: int, first: str) -> None:
        """Count observations that were clipped, of which ``first`` tells in words."""
        self.faults.clipped += observations
        self.faults.clipped_first = self.faults.clipped_first or first

    def check(self) -> None:
        """Raise TooManyFaults if more than the limit are within the window."""
        while self._recent and self._recent[0] <= self._steps - self._rules.window:
            self._recent.popleft()
        if len(self._recent) <= self._rules.limit:
            return
        raise self.error(
            f"Environments of '{self._task}' failed too often ({len(self._recent)} times within "
            f"{self._rules.window:,} env steps, {self._rules.limit} are allowed)"
        )

    def error(self, what: str) -> TooManyFaults:
        """The error that ends the run, whose message begins with ``what``."""
        message = f"{what}: {self.faults} in all; the last, {self.faults.last}."
        error = TooManyFaults(self._task, self.faults, message)
        error.__cause__ = self.faults.error
        return error


def checks_bounds(rules: FaultRules, task_id: str) -> bool:
    """Whether observations of the task that are outside their space are clipped to its bounds."""
    loose = task_id.rpartition(":")[2].startswith(LOOSE_BOUNDS)
    return not loose if rules.outside is None else rules.outside
