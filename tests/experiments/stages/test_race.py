"""A stage of `auto`: what is kept trains as it would alone, what the others took counts, and a killed one goes on."""

from __future__ import annotations

import json

import pytest
from support.tiny_experiment import write_config

from graft.errors import GraftError
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.stages import race as races
from graft.experiments.stages import resume
from graft.experiments.stages.divergence import Diverged
from graft.experiments.stages.race import evaluation_steps, run_race, shifted
from graft.experiments.store.lock import TakenOver
from graft.experiments.store.records import METRICS, RACE, Store

BY_NAME = {"finetune": {"heads": "by_name"}}
CHANGES = {
    "methods": [BY_NAME, {"auto": {"candidates": [BY_NAME, {"finetune": {"heads": "fresh"}}], "share": 0.5}}],
    "seeds": 1,
    "transfer": {"steps": 512},
    "recall": 4,
}


class Killed(Exception):
    """As sudden as a kill."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The experiment's graph, and a store with all of it but the stage of `auto`, which is given, too."""
    folder = tmp_path_factory.mktemp("race")
    config = load_config(str(write_config(folder, **CHANGES)))
    graph, store = expand(config), Store(folder / "out")
    store.open(config)
    stages = list(graph.stages.values())
    auto = next(s for s in stages if s.method is not None and "races" in s.method.words())
    for stage in stages:
        if stage is not auto:
            run_race(stage, store, lambda *_: None)
    return graph, store, auto


def raced(plan, monkeypatch, lead, stop_at=None):
    """Run the stage, where ``lead`` says by how much a candidate plays better than others in the race."""
    _, store, auto = plan

    real = races.Trials._train

    def train(self, candidate, env_steps):
        look = real(self, candidate, env_steps)
        assert look.episode_steps >= len(look.returns)
        return look._replace(returns=[float(lead(candidate, env_steps))] * len(look.returns))

    monkeypatch.setattr(races.Trials, "_train", train)

    def progress(env_steps, values):
        if stop_at is not None and env_steps >= stop_at:
            raise Killed

    run_race(auto, store, progress)
    return store.record(auto.id), (store.folder(auto.id) / METRICS).read_bytes()


def curve(store, stage):
    return store.evaluations(stage.id)


def stage_of(graph, name):
    return next(s for s in graph.stages.values() if s.kind == "transfer" and s.label.startswith(name))


def test_what_is_kept_is_the_method_after_the_steps_of_others(plan, monkeypatch):
    graph, store, auto = plan
    record, _ = raced(plan, monkeypatch, lambda c, n: c.startswith("finetune(heads=by_name"))
    about, alone = record[RACE], stage_of(graph, "finetune(heads=by_name")
    assert about["kept"] == "finetune(heads=by_name)"
    assert about["spent"] == dict.fromkeys(("finetune(heads=by_name)", "finetune(heads=fresh)", "scratch"), 128)
    assert (about["env_steps_of_others"], record["env_steps"]) == (256, 512)
    assert about["env_steps_of_episodes"] > 0
    mine, theirs = curve(store, auto), curve(store, alone)
    assert mine.steps == theirs.steps
    assert set(mine.scores[:3]) == {theirs.scores[0]}
    assert mine.scores[3] == theirs.scores[1]  # 384: 128 after the 256 of the others
    assert store.checkpoint(auto.id).record["stage"] == json.loads(json.dumps(auto.to_json()))
    assert store.done(auto.id)


def test_what_falls_behind_scratch_gives_way_to_it(plan, monkeypatch):
    record, _ = raced(plan, monkeypatch, lambda c, n: c == "scratch" and n > 0)
    assert record[RACE]["kept"] == "scratch"
    assert record["env_steps"] == 512


def test_a_race_in_which_scratch_diverges_is_tried_anew(plan, monkeypatch):
    _, store, auto = plan
    real, tried = races.run_stage, list[str]()

    def diverging(stage, *others):
        tried.append(stage.label)
        if stage.label.startswith("scratch") and sum(label == stage.label for label in tried) == 1:
            raise Diverged("it diverged after 64 env steps", [{"env_steps": 64, "learning_rate": 1e-3, "file": "x"}])
        real(stage, *others)

    monkeypatch.setattr(races, "run_stage", diverging)
    with pytest.raises(
        Diverged, match="scratch, which all are compared with: it diverged after 64 env steps"
    ) as caught:
        run_race(auto, store, lambda *_: None)
    assert [entry["env_steps"] for entry in caught.value.divergences] == [64]
    first = list(tried)
    run_race(auto, store, lambda *_: None)
    assert store.done(auto.id)
    others = [label for label in first if not label.startswith("scratch")]
    assert others
    assert tried[len(first)].startswith("scratch"), "what others showed is known already"


@pytest.mark.parametrize("error", [GraftError("its environment failed too often"), TakenOver("another process has it")])
def test_other_errors_of_scratch_are_what_they_are(plan, monkeypatch, error):
    _, store, auto = plan
    real = races.run_stage

    def failing(stage, *others):
        if stage.label.startswith("scratch"):
            raise error
        real(stage, *others)

    monkeypatch.setattr(races, "run_stage", failing)
    with pytest.raises(GraftError) as caught:
        run_race(auto, store, lambda *_: None)
    assert caught.value is error


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("one_ray")
def test_a_race_on_rllib(tmp_path):
    """Candidates go on from their snapshots, as on the other backend."""
    config = load_config(str(write_config(tmp_path, **CHANGES, backend="rllib")))
    graph, store = expand(config), Store(tmp_path / "out")
    store.open(config)
    stages = list(graph.stages.values())
    auto = next(s for s in stages if s.method is not None and "races" in s.method.words())
    for stage in stages:
        if stage.id == auto.source or stage is auto:
            run_race(stage, store, lambda *_: None)
    record = store.record(auto.id)
    assert record["env_steps"] == 512
    assert set(record[RACE]["spent"].values()) == {128}
    assert record[RACE]["env_steps_of_others"] == 256
    assert curve(store, auto).steps[-1] == 512


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [150, 450])
def test_a_killed_race_ends_as_an_undisturbed_one(plan, monkeypatch, stop_at):
    monkeypatch.setattr(resume, "SECONDS", 0.0)

    def lead(candidate, env_steps):
        return candidate.startswith("finetune(heads=by_name")

    undisturbed, metrics = raced(plan, monkeypatch, lead)
    with pytest.raises(Killed):
        raced(plan, monkeypatch, lead, stop_at)
    again, theirs = raced(plan, monkeypatch, lead)
    untimed = [
        [{k: v for k, v in json.loads(line).items() if "time" not in k} for line in lines.splitlines()]
        for lines in (metrics, theirs)
    ]
    assert untimed[0] == untimed[1]
    assert again[RACE] == undisturbed[RACE]


def test_evaluations_are_read_off_at_the_steps_of_other_stages(plan):
    *_, auto = plan
    lines = [{"env_steps": s, "eval/return_mean": float(s)} for s in (0, 128, 256)] + [{"env_steps": 128, "train/x": 1}]
    lines.sort(key=lambda line: line["env_steps"])
    made = dict(shifted(lines, 192, auto))
    assert {s: v["eval/return_mean"] for s, v in made.items() if "eval/return_mean" in v} == {
        0: 0.0,
        128: 0.0,
        256: 64.0,
        384: 192.0,
        448: 256.0,
    }
    assert made[320] == {"train/x": 1}
    assert evaluation_steps(61440, 8192, 2048)[-3:] == [49152, 57344, 61440]
    assert evaluation_steps(1000, 100, 128) == [0, 128, 256, 384, 512, 640, 768, 896, 1000]
