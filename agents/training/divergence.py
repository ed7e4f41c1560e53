"""Finds the minibatch by which a training diverges: the first whose loss or gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from numpy.typing import NDArray

from graft.agents.networks.policy_network import Unstable

Columns = Callable[[], Mapping[str, torch.Tensor | None]]
"""Returns a minibatch: name -> tensor, or None for a column that it lacks."""

PERIOD = 16
"""Minibatches between two checks on a GPU, each of which waits for all that was queued there."""


class DivergenceCheck:
    """Checks a training's minibatches before their steps; on a GPU the last few together, after their steps."""

    def __init__(self) -> None:
        self._unread: list[tuple[torch.Tensor, Columns]] = []
        self._last: Columns = dict

    def see(self, norm: torch.Tensor, columns: Columns) -> None:
        """Check a minibatch by the norm of its gradients and losses; raises Unstable where one is not finite."""
        self._last = columns
        self._unread.append((norm, columns))
        if norm.device.type == "cpu" or len(self._unread) >= PERIOD:
            self._read()

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        for size, columns in unread:
            if not math.isfinite(size.item()):
                raise unstable("a loss or the norm of the gradients", columns)

    def check_weights(self, weights: Iterable[torch.Tensor]) -> None:
        """Raise Unstable where a weight is not finite, or a minibatch was that is not checked yet; between rollouts."""
        self._read()
        kept = self._last()  # as the next rollout may overwrite what it is gathered from
        self._last = lambda: kept
        if not math.isfinite(total_norm([weight.detach() for weight in weights]).item()):
            raise unstable("a weight", self._last)

    def check_losses(self, values: Mapping[str, float]) -> None:
        """Raise Unstable where a metric (tag -> value) that is a loss is not finite."""
        if not all(math.isfinite(value) for tag, value in values.items() if "loss" in tag):
            raise unstable("a loss", self._last)

    def last(self) -> dict[str, NDArray[Any]]:
        """The first that is not finite of those not read yet, else the latest; empty where there was none."""
        bad = next((columns for norm, columns in self._unread if not math.isfinite(norm.item())), self._last)
        return arrays(bad)


def total_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all together; infinite or not a number where one of them is."""
    return cast(torch.Tensor, torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))))


def arrays(columns: Columns) -> dict[str, NDArray[Any]]:
    return {name: t.detach().cpu().numpy() for name, t in columns().items() if t is not None}


def unstable(what: str, columns: Columns) -> Unstable:
    """The error that ``what`` is not finite, with the minibatch by which that came."""
    error = Unstable(f"{what} is not a finite number any more; a smaller learning rate may help")
    error.batch = arrays(columns)
    return error
