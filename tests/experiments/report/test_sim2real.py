"""The table of a sim-to-sim proxy, from a real run of seconds, beside what its metrics say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training.evaluate import worst_tenth
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.run import main
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store
from graft.transfer.method import label

DRAWN = {"masscart": {"uniform": [0.5, 2.0]}}
SEEN = ["state", "dynamics", "history"]
PROXY = {
    "name": "proxy",
    "sources": [
        {"name": "nominal", "id": "CartPole-v1", "kwargs": {"show": "state"}},
        {
            "name": "informed",
            "id": "CartPole-v1",
            "kwargs": {"show": SEEN, "history": 3, **DRAWN},
            "methods": [{"rma": {"heads": "shared", "updates": 20}}],
        },
    ],
    "targets": [
        {
            "id": "CartPole-v1",
            "kwargs": {"show": ["state", "history"], "history": 3, "length": 1.5, "max_episode_steps": 60},
            "recall": {"id": "CartPole-v1", "kwargs": {"show": ["state", "history"], "history": 3}},
            "bounds": [10, 60],
        }
    ],
    "methods": [{"finetune": {"heads": "shared"}}],
    "seeds": 2,
    "pretrain": {"steps": 512},
    "transfer": {"steps": 256},
    "network": {"options": {"features": 8, "normalise": True}, "head": [8]},
    "algorithm": {"num_envs": 8, "num_steps": 16, "minibatch": 64, "epochs": 1},
    "evaluation": {"every": 256, "episodes": 8, "num_envs": 8},
    "recall": 8,
    "sim_to_sim": True,
}


KINDS, R2 = ("pretrain", "transfer"), "transfer/latent_r2"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "proxy.yaml").write_text(yaml.safe_dump(PROXY))
    config, store = load_config(str(folder / "proxy.yaml")), Store(folder / "out")
    store.open(config)
    for stage in expand(config).stages.values():
        run_stage(stage, store, lambda *_: None)
    assert main([str(folder / "proxy.yaml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def evaluations(out: Path, stage: str, tag: str) -> list[float]:
    lines = (out / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [(value - 10) / 50 for line in lines if (value := json.loads(line).get(tag)) is not None]


@pytest.mark.slow
def test_rows_are_what_the_stages_measured(out):
    results = json.loads((out / "results.json").read_text())
    rows = {row["method"]: row for row in results["recovery"]}
    assert set(rows) == {"scratch", "random_frozen", "finetune(heads=shared)", "rma(heads=shared, updates=20)"}
    assert rows["scratch"]["gap"] is None
    assert rows["scratch"]["forgotten"] is None
    graph = expand(load_config(str(out.parent / "proxy.yaml")))
    found = next(c for c in graph.comparisons if label(c.method) == "rma(heads=shared, updates=20)")
    tag = "eval/return_mean"
    starts = [evaluations(out, stage, tag)[0] for stage in found.stages]
    simulator = [evaluations(out, stage, tag)[-1] for stage in found.pretrain]
    row = rows["rma(heads=shared, updates=20)"]
    assert row["zero_shot"]["iqm"] == pytest.approx(np.mean(starts))
    assert row["simulator"]["iqm"] == pytest.approx(np.mean(simulator))
    assert row["gap"]["iqm"] == pytest.approx(np.mean(simulator) - np.mean(starts))
    worst_of = [evaluations(out, stage, "eval/return_worst_tenth") for stage in found.stages]
    assert row["worst_at_first"]["iqm"] == pytest.approx(np.mean([w[0] for w in worst_of]))
    assert row["worst_at_last"]["iqm"] == pytest.approx(np.mean([w[-1] for w in worst_of]))
    records = [json.loads((out / "stages" / s / "stage.json").read_text()) for s in found.stages]
    lost = [(r["recall_before"][0]["return_mean"] - r["recall"][0]["return_mean"]) / 50 for r in records]
    assert row["forgotten"]["iqm"] == pytest.approx(np.mean(lost))
    assert any(lost)


@pytest.mark.slow
def test_the_table_says_what_it_is(out, capsys):
    assert main([str(out.parent / "proxy.yaml"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Sim-to-sim proxy of a transfer to reality" in printed
    assert "informed" in printed
    assert "a sim-to-sim proxy. gap:" in printed


@pytest.mark.slow  # of the number itself, tests/transfer/methods/test_rma.py
def test_a_students_r2_is_in_the_log_and_a_low_one_comes_with_a_warning(tmp_path):
    """Its checkpoint has no buffer, and the target's training does not mention it."""
    source = {**PROXY["sources"][1], "methods": [{"rma": {"teaching": 0.5, "updates": 4}}]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**PROXY, "sources": source, "seeds": 1}))
    graph = expand(load_config(str(tmp_path / "r.yaml")))
    learned, transferred = (next(s for s in graph.stages.values() if s.kind == kind and s.method) for kind in KINDS)
    store, notes = Store(tmp_path / "out"), []
    run_stage(learned, store, lambda *_: None, note=notes.append)
    (note,) = notes
    assert note.startswith(f"Warning: {learned.label}: rma's student hardly knows the dynamics: R2 = -")
    lines = (store.folder(learned.id) / "metrics.jsonl").read_text().splitlines()
    logged = {line["env_steps"]: line["transfer/latent_r2"] for line in map(json.loads, lines) if R2 in line}
    assert list(logged) == [512]
    assert f"R2 = {logged[512]:.2f} of" in note
    kept = Checkpoint.load(store.folder(learned.id) / "checkpoint").parts["method"]
    assert set(kept) == {"student", "begun", "updates", "error", "spread"}
    run_stage(transferred, store, lambda *_: None, note=notes.append)
    assert len(notes) == 1


@pytest.mark.slow
def test_a_source_has_its_own_methods_beside_the_controls(out):
    graph = expand(load_config(str(out.parent / "proxy.yaml")))
    pairs = [(c.source, label(c.method)) for c in graph.comparisons]
    assert len(pairs) == len(set(pairs)) == 4
    assert ("nominal", "finetune(heads=shared)") in pairs
    assert ("informed", "rma(heads=shared, updates=20)") in pairs


@pytest.mark.slow
def test_two_sources_of_one_name_are_refused(out):
    twice = load_config(str(out.parent / "proxy.yaml"), ["sources.1.name=nominal"])
    with pytest.raises(GraftError, match="Source nominal is listed more than once"):
        expand(twice)


def test_names_in_a_config_reach_the_task_and_its_record(tmp_path):
    target = {"id": "CartPole-v1", "schema": {"observation": {"pole_angle": "tilt"}}, "kwargs": {"length": 1.0}}
    (tmp_path / "n.yaml").write_text(
        yaml.safe_dump({**PROXY, "sources": "CartPole-v1", "targets": target, "network": {}})
    )
    config = load_config(str(tmp_path / "n.yaml"))
    assert config.targets[0].task.kwargs["schema"] == {"observation": {"pole_angle": "tilt"}}
    assert config.model_dump(mode="json", by_alias=True)["targets"][0]["schema"] == {
        "observation": {"pole_angle": "tilt"}
    }
    with pytest.raises(GraftError, match="a checkpoint"):
        load_config(str(tmp_path / "n.yaml"), ["sources=[{checkpoint: runs/x, schema: {action: [a, b]}}]"])


def test_the_worst_tenth_by_hand():
    assert worst_tenth(np.arange(20.0)) == 0.5
    assert worst_tenth(np.array([3.0, 1.0])) == 1.0
