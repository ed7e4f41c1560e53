"""The heads that checkpoints hold: a transfer's checkpoint is a source like any other."""

from __future__ import annotations

import pytest
import torch
from support.tiny_experiment import write_config
from support.tiny_tasks import MATCH, TASK, assert_same, small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.training.evaluate import evaluate
from graft.envs.core.task import Bounds
from graft.envs.factory import make
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.report.transfer import measure
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store
from graft.transfer.method import METHODS, PART
from graft.transfer.task_heads import HEADS, archive_of, heads_of, inherited, of_task, tasks_learned, with_task


def run(folder, **changes):
    """A tiny experiment, run in ``folder``: its graph and its store."""
    folder.mkdir()
    config = load_config(str(write_config(folder, seeds=1, **changes)))
    graph, store = expand(config), Store(folder / "out")
    store.open(config)
    for stage in graph.stages.values():
        run_stage(stage, store, lambda *_: None)
    return graph, store


def env_steps(graph, store, method):
    """Of the experiment's one row by ``method``."""
    scales = {stage.task: Bounds(0.0, 1.0, "") for stage in graph.stages.values()}
    return next(m.env_steps for m in measure(graph, store, scales) if m.comparison.method == METHODS[method]())


def transfer_by(graph, name):
    return next(s for s in graph.stages.values() if s.kind == "transfer" and s.method == METHODS[name]())


@pytest.mark.slow
def test_a_transfers_checkpoint_as_the_next_source(tmp_path):
    """What is kept of its task is measured with its own heads, not with those of the task before it."""
    graph, store = run(tmp_path / "first", methods=["finetune", "ewc"])
    learned = {name: transfer_by(graph, name) for name in ("finetune", "ewc")}
    for name, stage in learned.items():
        checkpoint = store.checkpoint(stage.id)
        assert tasks_learned(archive_of(checkpoint)) == 2
        assert_same(of_task(checkpoint.parts[HEADS], 1), heads_of(checkpoint.build()))
        folder = store.folder(stage.id) / "checkpoint"
        targets = [{"id": "Graft/Dodge-v0", "kwargs": {"invert": True}}]
        next_graph, next_store = run(
            tmp_path / name, sources={"checkpoint": str(folder)}, targets=targets, methods=["finetune", "ewc"]
        )
        known = transfer_by(next_graph, name)
        after = next_store.checkpoint(known.id)
        assert [recall.index for recall in known.recall] == [1]
        assert tasks_learned(archive_of(after)) == 3
        network = after.build()
        network.load_state_dict({**network.state_dict(), **of_task(after.parts[HEADS], 1)})
        env = make(stage.task, known.evaluation.num_envs, known.recall_seed(stage.task))
        seed = known.recall_seed(stage.task)
        dice, plan = torch.Generator().manual_seed(seed), known.evaluation
        returns = evaluate(network, env, known.recall_episodes, dice, plan.deterministic, seed=seed).returns
        assert next_store.record(known.id)["recall"][0]["return_mean"] == returns.mean()
        foreign = transfer_by(next_graph, "ewc" if name == "finetune" else "finetune")
        assert [recall.index for recall in foreign.recall] == [0]
        assert tasks_learned(archive_of(next_store.checkpoint(foreign.id))) == 2
    played = env_steps(graph, store, "ewc")
    assert (played["pretrain"], played["transfer"]) == (256, 256)
    assert played["consolidation"] > 2048  # for so many states, over whole episodes
    assert env_steps(graph, store, "scratch") == {"pretrain": 0, "consolidation": 0, "transfer": 256}
    assert env_steps(next_graph, next_store, "finetune") == {"pretrain": None, "consolidation": 0, "transfer": 256}
    anchors = {name for name in after.parts[PART] if name.startswith("raw.")}
    assert anchors == {"raw.0", "raw.1"}  # of both tasks that ewc has consolidated


def test_what_another_method_left_is_not_taken_over():
    network = small_network(MATCH)
    parts = {PART: {"raw.0": torch.ones(())}, HEADS: with_task({}, network, 0), "other": {"x": torch.ones(1)}}
    record = {"stage": {"method": {"name": "ewc"}}}
    source = Checkpoint.of(network, TASK, parts=parts, record=record)
    assert inherited(source, METHODS["ewc"]()) is source
    assert inherited(source, METHODS["replay"]()).parts.keys() == {"other"}
    plain = Checkpoint.of(network, TASK, parts=parts, record={"stage": {"method": None}})
    assert inherited(plain, METHODS["replay"]()) is plain
