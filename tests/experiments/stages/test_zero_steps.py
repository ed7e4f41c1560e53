"""``transfer: {steps: 0}``: only evaluated. What is kept is the source's then, also on a target that shows more."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from support.tiny_experiment import write_config

from graft.agents.training.evaluate import evaluate
from graft.envs.factory import make
from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.report import plots
from graft.experiments.report.conclusions import conclude_pairs
from graft.experiments.report.results import RESULTS
from graft.experiments.run import _has_results
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store

CHANGES = {
    "sources": {"id": "Graft/Gather-v0", "bounds": [-1, 4]},
    "targets": "Graft/Hunt-v0",
    "methods": "finetune",
    "seeds": 1,
    "transfer": {"steps": 0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment's graph and store, and (table, results) with its last stage waiting, and with all done."""
    folder = tmp_path_factory.mktemp("zero")
    config = load_config(str(write_config(folder, **CHANGES)))
    graph, store, printed = expand(config), Store(folder / "out"), []
    store.open(config)
    assert not _has_results(graph, store)
    *first, last = graph.stages.values()
    for stages in (first, [last]):
        for stage in stages:
            run_stage(stage, store, lambda *_: None)
        assert _has_results(graph, store)
        page = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plots, "_save", lambda figure, path: None)  # pictures take seconds
            conclude_pairs(Console(file=page, width=160), config, graph, store, {})
        printed.append((page.getvalue(), json.loads((store.out / "results.json").read_text())))
    return graph, store, *printed


def test_a_target_is_evaluated_and_not_trained_on(run):
    graph, store, _, (printed, results) = run
    transfers = [stage for stage in graph.stages.values() if stage.kind == "transfer"]
    assert [len(store.evaluations(stage.id).steps) for stage in transfers] == [1, 1, 1]
    assert {store.record(stage.id)["env_steps"] for stage in transfers} == {0}
    assert "Nothing is trained on the target (transfer.steps is 0)" in printed
    for row in results["rows"]:
        assert row["zero_shot"]["iqm"] == row["auc"]["iqm"] == row["final"]


def test_what_is_kept_is_the_source_itself(run):
    graph, store, _, (printed, results) = run
    pretrained, *_, stage = graph.stages.values()
    plan, seed = stage.evaluation, stage.recall_seed(pretrained.task)
    network = store.checkpoint(pretrained.id).build().eval()
    env = make(pretrained.task, plan.num_envs, seed)
    dice = torch.Generator().manual_seed(seed)
    returns = evaluate(network, env, stage.recall_episodes, dice, plan.deterministic, plan.max_steps, seed).returns
    env.close()
    assert store.record(stage.id)["recall"][0]["return_mean"] == pytest.approx(returns.mean())
    row = results["rows"][-1]
    assert row["kept"]["iqm"] == pytest.approx((returns.mean() + 1) / 5), "on the source's own bounds"
    before = (store.evaluations(pretrained.id).scores[-1] + 1) / 5
    assert row["kept_of"]["iqm"] == pytest.approx(before)
    assert f"{row['kept']['iqm']:.2f} of {before:.2f}" in printed


def test_a_run_that_was_stopped_shows_its_results_so_far(run):
    _, _, (printed, results), (complete, _) = run
    assert "UNFINISHED: 1 of 4 stages have not ended; these are the results so far." in printed
    assert [row["method"] for row in results["rows"]] == ["scratch", "random_frozen"]
    assert "UNFINISHED" not in complete


def test_the_best_checkpoints_are_named(run):
    _, store, _, (printed, results) = run
    lines = printed[printed.index("Best agents") :].splitlines()
    best = max(results["rows"], key=lambda row: row["final"])
    assert lines[1].startswith(f"  Hunt: {best['method']}")
    assert store.out.joinpath("stages") in next(p for p in store.out.glob("stages/*/checkpoint")).parents
    assert lines[2].startswith(f"See one play: graft watch {store.out}/stages/")


def test_results_are_of_the_schema(run):
    for _, results in run[2:]:
        RESULTS.validate_python(results)


def test_a_sequence_has_to_train(tmp_path):
    sequence = ["Graft/Gather-v0", "Graft/Dodge-v0"]
    changes = {"sources": None, "targets": None, "sequence": sequence, "transfer": {"steps": 0}}
    with pytest.raises(GraftError, match=r"transfer.steps 0 is for targets"):
        load_config(str(write_config(tmp_path, **changes)))
