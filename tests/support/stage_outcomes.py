"""What finished stages left, without what a clock had a hand in, for comparing two runs."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import torch

from graft.experiments.store.records import METRICS, SNAPSHOT

CLOCKED = ("seconds", "cost", "checkpoint", "metrics_sha256")


class Outcome(NamedTuple):
    """Lines of metrics, tensors by part and name, and the record."""

    metrics: list[dict[str, Any]]
    tensors: dict[tuple[str, str], torch.Tensor]
    record: dict[str, Any]


def outcome(store, stage):
    """By a stage that is done."""
    assert store.done(stage.id)
    assert not (store.folder(stage.id) / SNAPSHOT).exists()
    text = re.sub(r', "time/[a-z_]+": [^,}]+', "", (store.folder(stage.id) / METRICS).read_text())
    made = store.checkpoint(stage.id)
    parts = {"": made.tensors, **made.parts}
    return Outcome(
        [json.loads(line) for line in text.splitlines()],
        {(part, name): tensor for part, tensors in parts.items() for name, tensor in tensors.items()},
        {key: value for key, value in store.record(stage.id).items() if key not in CLOCKED},
    )


def assert_same(mine, theirs):
    """Bit for bit."""
    assert mine.metrics == theirs.metrics
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert [name for name, t in mine.tensors.items() if not torch.equal(t, theirs.tensors[name])] == []
    assert mine.record == theirs.record


def assert_same_outcomes(stages, mine, theirs):
    """Metrics, tensors and records of the stages are equal in both stores, bit for bit."""
    for stage in stages:
        assert_same(outcome(mine, stage), outcome(theirs, stage))
