"""A squad beside Stable-Baselines3's ``predict``: the same actions, and as many times faster as is said."""

from __future__ import annotations

import io
import statistics

import pytest
import torch
from rich.console import Console

from graft.experiments.benchmarks import npc


@pytest.mark.slow
def test_a_squad_is_200_times_a_loop_over_predict_and_twice_its_batch():
    torch.set_num_threads(1)
    ours, batch, loop = (statistics.median(t.cpu) for t in list(npc.measure(npc.subjects(), 2).values())[:3])
    assert loop > 200 * ours
    assert batch > 2 * ours


@pytest.mark.slow
def test_the_table_says_whether_the_actions_are_the_same(monkeypatch):
    monkeypatch.setattr(npc, "NPCS", 40)
    monkeypatch.setattr(npc, "REPEATS", {"squad": 2, "batch": 2, "loop": 1})
    console = Console(record=True, width=120, file=io.StringIO())
    npc.bench_npc(console, 1)
    text = console.export_text()
    assert "Squad and predict play the same actions" in text
    assert all(name in text for name in ("mlp 64-64, Squad", "SB3 predict, a loop", "ego, Squad over 4 frames"))
