"""Set up once for all tests: one thread each, plots without a screen; and the hand-made tasks for those that ask."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from batches import OPEN
from handmade import HandmadeAdapter

from envs.factory import ADAPTERS

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def batches_are_closed() -> Iterator[None]:
    """Those of `batches.make`."""
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def handmade_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `envs.make` make the tasks ``handmade/...``; gone after the test."""
    list(ADAPTERS)  # loads the others
    monkeypatch.setitem(ADAPTERS._entries, "handmade", HandmadeAdapter())
