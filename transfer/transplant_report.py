"""Transplant report: what was carried over, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["copied", "remapped", "padded", "initialised", "dropped"]


@dataclass(frozen=True)
class TensorRow:
    """What became of one tensor.

    Attributes:
        tensor: its name in the network (for ``dropped``: in the source).
        status: ``copied`` whole and in place; ``remapped`` by name; ``padded``: some slices are new; ``initialised``:
            nothing came from the source; ``dropped``: the target has no such tensor.
        share: part of the tensor's values that came from the source, in [0, 1].
        detail: which names were new, how they were initialised, and which were dropped.
        wanted: whether it was to be carried over; false for heads that the method chose to make afresh.
    """

    tensor: str
    status: Status
    share: float
    detail: str = ""
    wanted: bool = True


@dataclass(frozen=True)
class TransplantReport:
    """A row for every tensor of the target, then the source's tensors that have no place in it.

    Attributes:
        rows: in the order of the target's tensors.
        lost: names of observations, actions and tensors that did not arrive whole; empty where nothing was lost.
    """

    rows: tuple[TensorRow, ...]
    lost: tuple[str, ...]

    @property
    def partial(self) -> bool:
        """Whether something that was to be carried over is not, or not whole."""
        return bool(self.lost)

    def summary(self) -> str:
        """Counts by status: ``8 copied, 1 padded, 6 initialised``."""
        counts = Counter(row.status for row in self.rows)
        return ", ".join(f"{n} {status}" for status, n in counts.items())

    def markdown(self) -> str:
        """A table of tensors, and what was lost."""
        lines = ["| tensor | status | from source | detail |", "| --- | --- | --- | --- |"]
        lines += [f"| `{row.tensor}` | {row.status} | {row.share:.0%} | {row.detail} |" for row in self.rows]
        return "\n".join([f"{self.summary()}; lost: {', '.join(self.lost) or 'nothing'}", "", *lines])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rows": [vars(row) for row in self.rows], "lost": list(self.lost), "summary": self.summary()}
