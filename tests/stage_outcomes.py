"""What finished stages left, without what a clock had a hand in, for comparing two runs."""

from __future__ import annotations

import json
import re

import torch

from experiments.store import METRICS, SNAPSHOT

CLOCKED = ("seconds", "checkpoint", "metrics_sha256")


def assert_left_the_same(stages, mine, theirs):
    """Metrics, tensors and records of the stages are equal in both stores, bit for bit."""
    for stage in stages:
        assert mine.done(stage.id)
        assert not (mine.folder(stage.id) / SNAPSHOT).exists()
        assert metrics(mine, stage) == metrics(theirs, stage)
        tensors = [_tensors(store, stage) for store in (mine, theirs)]
        assert tensors[0].keys() == tensors[1].keys()
        assert [name for name, t in tensors[0].items() if not torch.equal(t, tensors[1][name])] == []
        records = [store.record(stage.id) for store in (mine, theirs)]
        assert [{k: v for k, v in r.items() if k not in CLOCKED} for r in records] == [
            {k: v for k, v in records[0].items() if k not in CLOCKED}
        ] * 2


def metrics(store, stage):
    """Without times."""
    text = (store.folder(stage.id) / METRICS).read_text()
    return [json.loads(line) for line in re.sub(r', "time/[a-z_]+": [^,}]+', "", text).splitlines()]


def _tensors(store, stage):
    made = store.checkpoint(stage.id)
    parts = {"": made.tensors, **made.parts}
    return {(part, name): tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
