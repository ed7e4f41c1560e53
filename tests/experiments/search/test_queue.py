"""The stages of trials in the order in which workers get them, and what becomes of trials that fail."""

from __future__ import annotations

from support.search_fixtures import RATE, STRENGTH, Following, write_search

from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.search.definition import load_search
from graft.experiments.search.plan import make_plan


def zero(stage):
    return 0.0


def test_a_plan_holds_the_tuned_method_alone(tmp_path):
    path = write_search(tmp_path, {"methods": ["frozen", "ewc"], "seeds": 2}, space={"methods.1.ewc.strength": [1, 2]})
    plan = make_plan(load_search(str(path)), {"methods.1.ewc.strength": 2})
    assert [(run.stage.method.strength, run.stage.seed) for run in plan.runs] == [(2, 0), (2, 1)]
    assert plan.budget == 2048
    assert [stage.kind for stage in plan.chain(plan.runs[0])] == ["pretrain", "consolidate", "transfer"]
    whole = expand(load_config(str(tmp_path / "tiny.yaml"), ["methods.1.ewc.strength=2"]))
    chains = {stage.id for run in plan.runs for stage in plan.chain(run)}
    assert chains < whole.stages.keys(), "the command that repeats a trial finds these stages"


def test_trials_share_their_sources_and_train_no_stage_twice(tmp_path):
    path = write_search(tmp_path, {"seeds": 2}, scheduler="none", space={STRENGTH: {"log": [1, 9]}}, trials=3)
    found = Following(path, tmp_path / "out", zero, jobs=2)
    first, second = found.queue.take(), found.queue.take()
    assert [(stage.kind, stage.seed) for stage in (first, second)] == [("pretrain", 0), ("pretrain", 1)]
    assert found.queue.take() is None, "two trials at once, each with one stage"
    found.queue.requeue(second)
    assert found.queue.ready() == [second]
    found.queue.finish(first, found.store.train(first))
    found.run()
    kinds = [stage.kind for stage in found.store.trained]
    assert len({stage.id for stage in found.store.trained}) == len(kinds)
    assert (kinds.count("pretrain"), kinds.count("transfer")) == (2, 6)
    assert set(found.states().values()) == {"COMPLETE"}
    assert found.queue.take() is None


def test_a_source_that_fails_ends_its_trials_alone_until_it_is_tried_again(tmp_path):
    path = write_search(tmp_path, scheduler="none", space={RATE: [1e-3, 1e-2], STRENGTH: {"log": [1, 2]}}, trials=6)
    found = Following(path, tmp_path / "out", zero)
    bad = found.step(error="it broke")
    assert bad.kind == "pretrain"
    found.run()
    failed = {index for index, state in found.states().items() if state == "FAIL"}
    assert 0 in failed
    assert len(failed) < 6
    for index in failed:
        assert "it broke" in found.trials.all()[index].user_attrs["error"]
        assert bad.id in make_plan(found.search, found.trials.all()[index].user_attrs["values"]).stages
    found.open()
    found.run()
    assert set(found.states().values()) == {"COMPLETE"}


def test_a_search_that_goes_on_reports_what_was_trained_meanwhile_and_trains_it_no_more(tmp_path):
    path = write_search(tmp_path, scheduler="none", trials=2)
    found = Following(path, tmp_path / "out", zero)
    while found.queue.ready()[0].kind != "transfer":
        found.step()
    stage = found.queue.take()
    found.store.specs[stage.id], found.store.reached[stage.id] = stage, stage.budget  # and then a kill
    found.open()
    found.run()
    assert found.states() == {0: "COMPLETE", 1: "COMPLETE"}
    assert stage.id not in [trained.id for trained in found.store.trained]
    assert sorted(found.trials.all()[0].intermediate_values) == [256, 512, 768, 1024]
