"""A tiny sequence of two games from its config to its results, with methods that must not forget a single bit."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.tiny_experiment import write_config

from graft.envs.factory import make, schemas
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.sequence import expand_sequence
from graft.experiments.report.conclusions import check_sequence, conclude_sequence
from graft.experiments.report.results import RESULTS
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store
from graft.transfer.method import PART, method_name
from graft.transfer.task_heads import HEADS, serving

CHANGES = {
    "sources": None,
    "targets": None,
    "sequence": ["Graft/Gather-v0", "Graft/Dodge-v0"],
    "methods": ["finetune", {"packnet": {"retrain": 128}}, "progressive"],
    "seeds": 1,
    "pretrain": {"steps": 128},
    "transfer": {"steps": 256},
    "recall": 8,
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """The sequence, run once: its graph, its store, its results, and what was printed."""
    folder = tmp_path_factory.mktemp("sequence")
    config = load_config(str(write_config(folder, **CHANGES)))
    graph, store = expand_sequence(config), Store(folder / "out")
    assert check_sequence(graph) == []
    store.open(config)
    for stage in graph.stages.values():
        run_stage(stage, store, lambda *_: None)
    page = io.StringIO()
    conclude_sequence(Console(file=page, width=80), config, graph, store, {})
    return graph, store, json.loads((store.out / "results.json").read_text()), page.getvalue()


def test_results_are_of_the_schema(lived):
    RESULTS.validate_python(lived[2])


def test_the_best_network_is_named(lived):
    _, store, _, printed = lived
    (line,) = (line for line in printed.splitlines() if line.startswith("  all tasks: "))
    folder = Path(line.rpartition(": ")[2])
    assert folder.parent.parent == store.out / "stages"
    assert (folder / "manifest.json").exists()


def life_of(graph, name):
    return next(life for life in graph.continual if method_name(life.method) == name)


def serving_first(graph, store, name, after):
    """The network that a method has for the first task once the task of index ``after`` is consolidated."""
    life = life_of(graph, name)
    checkpoint = store.checkpoint(life.consolidated[0][after])
    heads = {n.removeprefix("0."): t for n, t in checkpoint.parts[HEADS].items() if n.startswith("0.")}
    viewed = life.method.view(checkpoint.build(), checkpoint.parts.get(PART, {}), 0)
    return serving(viewed, heads, schemas(graph.stages[life.trained[0][0]].task))


def outputs(network, task):
    """Logits and values on states of ``task``, one after the other."""
    env = make(task, 8, 0, observation=network.schemas.observation)
    try:
        env.action_space.seed(0)
        states = [env.reset()[0], *(env.step(env.action_space.sample())[0] for _ in range(5))]
    finally:
        env.close()
    with torch.no_grad():
        found = [network(torch.as_tensor(obs)) for obs in states]
    return torch.cat([torch.cat([out.action.flatten(), out.value]) for out in found])


@pytest.mark.parametrize(
    ("name", "remembers"),
    [pytest.param("packnet", True, marks=pytest.mark.slow), ("progressive", True), ("finetune", False)],
)
def test_the_first_task_is_served_as_before_bit_for_bit(lived, name, remembers):
    graph, store, _, _ = lived
    task = graph.stages[life_of(graph, name).trained[0][0]].task
    before, after = (outputs(serving_first(graph, store, name, k), task) for k in (0, 1))
    assert before.std() > 0
    assert torch.equal(before, after) == remembers


def test_results_hold_the_matrix_that_the_stages_recalled(lived):
    graph, store, results, _ = lived
    assert [row["method"].split("(")[0] for row in results["rows"]] == [
        "scratch",
        "random_frozen",
        "finetune",
        "packnet",
        "progressive",
    ]
    for row, life in zip(results["rows"], graph.continual, strict=True):
        assert row["matrix"][0][1] is None
        assert all(math.isfinite(row[m]["iqm"]) for m in ("average_performance", "forgetting", "forward_transfer"))
        assert row["seeds"] == 1
        for k, stage_id in enumerate(life.consolidated[0] if life.consolidated else ()):
            for j, entry in enumerate(store.record(stage_id)["recall"]):
                bounds = results["bounds"][j]
                score = (entry["return_mean"] - bounds["random"]) / (bounds["expert"] - bounds["random"])
                assert row["matrix"][k][j] == pytest.approx(score, abs=1e-6)
                assert (entry["index"], entry["episodes"]) == (j, 8)
    assert {stage["status"] for stage in results["stages"]} == {"done"}
    assert [stage["kind"] for stage in results["stages"]].count("consolidate") == 3 * 2


def test_what_must_be_kept_is_counted(lived):
    rows = {row["method"].split("(")[0]: row for row in lived[2]["rows"]}
    assert rows["progressive"]["parameters"] > 2 * rows["finetune"]["parameters"]
    assert rows["packnet"]["parameters"] == rows["finetune"]["parameters"]
    assert rows["packnet"]["bytes_beside"] > rows["finetune"]["bytes_beside"] > 0, "owners, and heads of both tasks"


def test_retraining_is_part_of_the_cost(lived):
    graph, store, _, _ = lived
    for name, steps in (("finetune", 0), ("packnet", 128)):
        records = [store.record(i) for i in life_of(graph, name).consolidated[0]]
        assert [record["env_steps"] for record in records] == [steps] * 2


def test_table_notes_and_picture_are_there(lived):
    _, store, _, printed = lived
    assert "Gather → Dodge" in printed
    assert "Heads are per task, and the agent is told which task it is in." in printed
    assert "Only 1 seed: it has no interval" in printed
    assert "Lifelong metrics" in printed
    for name in ("matrix.png", "profiles.png"):
        assert (store.out / name).read_bytes().startswith(b"\x89PNG")


def test_observation_statistics_of_what_a_task_does_not_show_stay(tmp_path):
    """In the union of CartPole and Acrobot, each shows zeros for the other's features."""
    changes = CHANGES | {
        "sequence": ["CartPole-v1", "Acrobot-v1"],
        "methods": ["finetune"],
        "transfer": {"steps": 128},
        "network": {"encoder": "mlp", "options": {"widths": [8], "normalise": True}, "head": []},
        "evaluation": {"every": 1000, "episodes": 1, "num_envs": 1, "max_steps": 500},
        "recall": 1,
    }
    graph, store = expand_sequence(load_config(str(write_config(tmp_path, **changes)))), Store(tmp_path / "out")
    moved = {}
    for stage in graph.stages.values():
        if stage.method is None or method_name(stage.method) == "finetune":
            run_stage(stage, store, lambda *_: None)
            moved.setdefault(stage.kind, store.checkpoint(stage.id))
    first, second = moved["pretrain"], moved["transfer"]
    names = first.schemas.observation.names
    own = len(schemas(first.task).observation.names)
    assert len(names) > own
    for statistic in ("running_mean", "running_var", "running_count"):
        before, after = (c.tensors[f"encoder.blocks.0.0.{statistic}"] for c in (first, second))
        assert torch.equal(before[:own], after[:own])
        assert not torch.equal(before[own:], after[own:])
    assert first.tensors["encoder.blocks.0.0.running_count"].tolist()[own:] == [0] * (len(names) - own)
