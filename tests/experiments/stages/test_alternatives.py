"""Heads that no option chooses: a stage takes those that play better before training, and the table says which."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support.tiny_experiment import write_config
from support.tiny_tasks import MATCH, TASK, TinyTaskAdapter, box, discrete, small_config, small_network
from support.trainings import learning_rates

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.factory import ADAPTERS
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Comparison, StoppedEarly
from graft.experiments.report.transfer import TransferResult, measure, notes, results, rows, target_bounds
from graft.experiments.stages import resume
from graft.experiments.stages import run_stage as stages
from graft.experiments.stages.run_stage import best_start, run_stage
from graft.experiments.store.records import STARTS, Store
from graft.transfer.method import METHODS, label
from graft.transfer.metrics import Curve

SAME = {"id": "tiny/Match-v0", "bounds": [2, 8]}
TURNED = {"id": "tiny/Match-v0", "kwargs": {"names": ["b", "c", "d", "a"]}, "bounds": [2, 8]}
"""What is seen under a name asks for another action than in the source."""

CHAIN = {"methods": ["l2", {"finetune": {"layer_decay": 0.9}}]}

CHANGES = {
    "sources": "tiny/Match-v0",
    "targets": [SAME, TURNED],
    "methods": ["finetune", {"finetune": {"heads": "fresh"}}, {"chain": CHAIN}],
    "seeds": 1,
    "pretrain": {"steps": 2048},
    "transfer": {"steps": 768},
    "network": {"head": [16]},
    "algorithm": {"name": "ppo", "num_envs": 16, "num_steps": 16, "minibatch": 64, "epochs": 8, "learning_rate": 0.01},
    "recall": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment's graph, its store, what ``results.json`` holds, and each stage's largest learning rate."""
    folder = tmp_path_factory.mktemp("alternatives")
    list(ADAPTERS)  # loads the others
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADAPTERS._entries, "tiny", TinyTaskAdapter())
        config = load_config(str(write_config(folder, **CHANGES)))
        graph, store = expand(config), Store(folder / "out")
        store.open(config)
        rates = {}
        for stage in graph.stages.values():
            with learning_rates() as seen:
                run_stage(stage, store, lambda *_: None)
            rates[stage.id] = max(seen, default=0.0)
        scales = target_bounds(config, graph, store)
        data = results(config, graph, store, measure(graph, store, scales), scales, {})
        yield SimpleNamespace(config=config, graph=graph, store=store, results=data, rates=rates)


def stage_of(graph, target, method):
    kwargs = target.get("kwargs", {})
    return next(
        s for s in graph.stages.values() if s.kind == "transfer" and s.method == method and s.task.kwargs == kwargs
    )


@pytest.mark.parametrize("method", [METHODS["finetune"](), METHODS["chain"](**CHAIN)], ids=label)
def test_what_plays_better_is_where_training_begins(run, method):
    graph, store = run.graph, run.store
    for target, better in ((SAME, "by_name"), (TURNED, "fresh")):
        stage = stage_of(graph, target, method)
        start = store.record(stage.id)[STARTS]
        starts, other = start["return_means"], {"fresh": "by_name", "by_name": "fresh"}[better]
        assert start["taken"] == better
        assert starts[better] > starts[other] + 0.5
        begun = store.evaluations(stage.id).scores[0]
        assert begun == pytest.approx(starts[better], abs=1)
        carried = (store.folder(stage.id) / "transplant.json").read_text()
        assert ("fresh head" in carried) == (better == "fresh")


def test_carried_heads_learn_at_no_more_than_their_rate(run):
    carried, fresh = (stage_of(run.graph, target, METHODS["finetune"]()) for target in (SAME, TURNED))
    assert (run.rates[carried.id], run.rates[fresh.id]) == (pytest.approx(5e-4), pytest.approx(0.01))
    sources = [stage.id for stage in run.graph.stages.values() if stage.kind == "pretrain"]
    assert [run.rates[source] for source in sources] == [pytest.approx(0.01)]


def test_a_chain_learns_at_the_rate_of_what_builds_its_network():
    chain = METHODS["chain"]
    assert chain(methods=["l2", "ewc"]).learning_rate_limit == 5e-4
    assert chain(methods=["progressive", "finetune"]).learning_rate_limit is None


def test_a_resumed_stage_goes_on_with_what_it_took(run, tmp_path, monkeypatch):
    """Also where the episodes before training would come out otherwise now."""
    stage = stage_of(run.graph, SAME, METHODS["finetune"]())
    store = Store(tmp_path / "out")
    store.open(run.config)
    shutil.copytree(run.store.folder(str(stage.source)), store.folder(str(stage.source)))
    monkeypatch.setattr(resume, "SECONDS", 0.0)

    def stop(env_steps, values):
        if env_steps >= 512:
            raise StoppedEarly

    with pytest.raises(StoppedEarly):
        run_stage(stage, store, stop)
    store.stop(stage)
    monkeypatch.setattr(stages, "best_start", lambda starts: pytest.fail("chosen again"))
    run_stage(stage, store, lambda *_: None)
    assert store.record(stage.id)[STARTS] == run.store.record(stage.id)[STARTS]


def test_where_an_option_says_so_nothing_is_tried(run):
    graph, store = run.graph, run.store
    for target in (SAME, TURNED):
        assert STARTS not in store.record(stage_of(graph, target, METHODS["finetune"](heads="fresh")).id)


def test_the_table_says_which_heads_and_whether_others_were_better(run):
    data = run.results
    said = [line for line in notes(data) if line.startswith("Heads on ")]
    assert len(said) == 2
    assert said[0].startswith(
        "Heads on tiny/Match of finetune, chain(l2, finetune(layer_decay=0.9)): carried, by the score before"
    )
    assert ": fresh, by the score before" in said[1]
    rows = {(row["target"], row["method"]): row for row in data["rows"]}
    auto = rows["tiny/Match", "finetune"]
    assert auto["heads"]["by_name"]["seeds"] == 1
    assert auto["heads"]["by_name"]["start"] > auto["heads"]["fresh"]["start"]
    assert rows["tiny/Match", "finetune(heads=fresh)"]["heads"] == {}


@pytest.mark.parametrize(
    ("fresh", "carried", "taken"),
    [
        ([0.0, 1.0, 0.0, 1.0], [9.0, 8.0, 9.0, 8.0], "by_name"),
        ([9.0, 8.0, 9.0, 8.0], [0.0, 1.0, 0.0, 1.0], "fresh"),
        ([0.0, 1.0, 0.0, 1.0], [0.5, 1.5, 0.5, 1.5], "fresh"),  # higher, by 1.2 standard errors
        ([1.0, 1.0], [1.0, 1.0], "fresh"),
        ([1.0, 1.0], [2.0, 2.0], "by_name"),
    ],
)
def test_another_start_has_to_be_clearly_better(fresh, carried, taken):
    assert best_start({"fresh": np.array(fresh), "by_name": np.array(carried)}) == taken


def test_better_heads_need_an_interval():
    def result(method, finals):
        curves = tuple(Curve([0, 10], [0.0, final]) for final in finals)
        scratch = tuple(Curve([0, 10], [0.0, final]) for final in (0.3, 0.31, 0.32, 0.29, 0.3))
        return TransferResult(
            Comparison(Task("x"), "a", method, tuple(range(5)), ("m",) * 5, ("s",) * 5), curves, scratch, 0
        )

    far, near = (0.9, 0.91, 0.92, 0.9, 0.9), (0.5, 0.9, 0.4, 0.6, 0.52)
    mine = result(METHODS["finetune"](), (0.5, 0.52, 0.51, 0.5, 0.5))
    other = METHODS["finetune"](heads="by_name")
    chains = METHODS["chain"](methods=["l2", "ewc"]), METHODS["chain"](methods=[{"l2": {"heads": "by_name"}}, "ewc"])
    found = rows([result(chains[0], (0.5, 0.52, 0.51, 0.5, 0.5)), result(chains[1], far)], 0.5)
    assert found[0]["better_heads"] == label(chains[1])
    assert rows([mine, result(other, far)], 0.5)[0]["better_heads"] == "finetune(heads=by_name)"
    assert rows([mine, result(other, far)], 0.5)[1]["better_heads"] is None
    assert rows([mine, result(other, near)], 0.5)[0]["better_heads"] is None


def test_heads_that_cannot_be_carried_are_fresh_and_not_tried():
    source = Checkpoint.of(small_network(MATCH), TASK)
    target = Schemas(MATCH.observation, box(["x", "y"]))
    method = METHODS["finetune"]()
    assert set(method.alternatives(source, target, small_config("vector"))) == {"fresh"}
    assert set(method.alternatives(source, MATCH, small_config("vector"))) == {"fresh", "by_name"}
    fewer = Schemas(MATCH.observation, discrete("north", "south"))
    assert set(method.alternatives(source, fewer, small_config("vector"))) == {"fresh", "by_name"}
    strict = METHODS["finetune"](strict=True)
    assert set(strict.alternatives(source, fewer, small_config("vector"))) == {"fresh"}
    strict.build(source, fewer, small_config("vector"), 0)  # loses nothing
    report = method.build(source, target, small_config("vector"), 0).report
    assert {row.detail for row in report.rows if row.tensor.startswith("policy.")} >= {"fresh head"}
