"""Hyper-parameter search: spaces and their errors, trials by seed, early stopping, populations, and going on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from stage_outcomes import assert_left_the_same
from tiny_experiment import write_config

from agents.checkpoint import Checkpoint
from agents.network import build_network
from envs.errors import GraftError
from envs.factory import schemas
from experiments import tune
from experiments.config import load_config
from experiments.graph import expand
from experiments.stage import run_stage
from experiments.store import Store
from experiments.tuning.ledger import TrialLedger
from experiments.tuning.paced import Paced, Stopped
from experiments.tuning.plan import make_plan
from experiments.tuning.population import Population
from experiments.tuning.search import load_search, packaged_searches
from experiments.tuning.segment import going_on, segment_of
from experiments.tuning.space import parse_dimension
from transfer.method import PART, parse_method
from transfer.method import to_json as method_json

ROOT = Path(__file__).parents[2]
STRENGTH, RATE = "methods.0.ewc.strength", "algorithm.learning_rate"
SPACE = {STRENGTH: {"log": [0.1, 1000]}, RATE: {"log": [1e-5, 1e-2]}}


def write_search(folder, tiny=None, **changes):
    """A search over the tiny experiment, as a file."""
    folder.mkdir(exist_ok=True)
    given = {"methods": [{"ewc": {"heads": "by_name"}}], "seeds": 1, "transfer": {"steps": 1024}}
    write_config(folder, **{**given, **(tiny or {})})
    path = folder / "search.yaml"
    search = {"name": "search", "experiment": "tiny.yaml", "space": SPACE, "trials": 4}
    path.write_text(yaml.safe_dump({**search, **changes}))
    return path


def lines_of(out):
    return [json.loads(line) for line in (out / "tune.jsonl").read_text().splitlines()]


def done_stages(out):
    """When their records were written, by path."""
    return {p: p.stat().st_mtime_ns for p in out.glob("stages/*/stage.json") if '"done"' in p.read_text()}


def results_of(out):
    return json.loads((out / "tune.json").read_text())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"log": [100, 1]}, "wrong order"),
        ({"log": [0, 1]}, "no logarithm"),
        ({"uniform": [1, float("inf")]}, "finite"),
        ({"integer": [1, 2.5]}, "whole"),
        ({"uniform": [1]}, "two numbers"),
        ({"uniform": ["a", "b"]}, "two numbers"),
        ({"logarithmic": [1, 2]}, "Unknown kind of range of 'k' 'logarithmic'; allowed: integer"),
        ({"log": [1, 2], "uniform": [1, 2]}, "one range"),
        (3, "list of choices"),
        ([1], "two different"),
        ([1, 1], "two different"),
        ([1, {}], "two different"),
    ],
)
def test_dimensions_that_make_no_sense_are_refused(given, message):
    with pytest.raises(GraftError, match=message):
        parse_dimension("k", given)


def test_values_are_drawn_from_their_dimensions():
    rng = np.random.default_rng(0)
    log = [parse_dimension("k", {"log": [1e-4, 1e4]}).draw(rng) for _ in range(400)]
    assert min(log) >= 1e-4
    assert max(log) <= 1e4
    assert 0.4 < np.mean([value < 1 for value in log]) < 0.6, "as many below the geometric middle as above"
    assert all(value == float(f"{value:.4g}") for value in log)
    assert {parse_dimension("k", {"integer": [2, 4]}).draw(rng) for _ in range(60)} == {2, 3, 4}
    whole = {parse_dimension("k", {"log_integer": [1, 64]}).draw(rng) for _ in range(60)}
    assert all(isinstance(value, int) for value in whole)
    assert {parse_dimension("k", ["a", None, 1]).draw(rng) for _ in range(60)} == {"a", None, 1}
    assert parse_dimension("k", {"uniform": [0, 1]}).inside(1.7) == 1


def test_trials_depend_on_the_seed_alone(tmp_path):
    path = write_search(tmp_path)
    four, again, eight = (load_search(str(path), trials=n).sampled() for n in (4, 4, 8))
    assert four == again == eight[:4]
    assert four[0].values == {}, "the experiment as it is comes first"
    assert len({trial.id for trial in eight}) == 8
    assert load_search(str(path), seed=1).sampled()[1:] != four[1:]
    assert set(four[1].values) == {STRENGTH, RATE}


def test_a_small_space_has_fewer_trials(tmp_path):
    path = write_search(tmp_path, space={RATE: [1e-3, 1e-2]})
    assert [trial.values.get(RATE) for trial in load_search(str(path), trials=9).sampled()[:1]] == [None]
    assert len(load_search(str(path), trials=9).sampled()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spcae": {}}, "Did you mean 'space'"),
        ({"space": {}}, "space"),
        ({"trials": 1}, "trials"),
        ({"experiment": "quikstart"}, "Did you mean 'quickstart'"),
        ({"scheduler": "ahsa"}, "Did you mean 'asha'"),
        ({"scheduler": {"name": "asha", "reductoin": 2}}, "Did you mean 'reduction'"),
        ({"scheduler": {"name": "asha", "reduction": 1}}, "reduction"),
        ({"scheduler": {"name": "pbt", "quantile": 0.7}}, "quantile"),
        ({"scheduler": "pbt", "metric": "auc"}, "how they do now"),
        ({"metric": "balance"}, "asha can't stop by it"),
        ({"space": {"algorithm.learning_rat": [1e-3, 1e-2]}}, "Did you mean 'learning_rate'"),
        ({"space": {"methods.0.ewc.strenght": [1, 10]}}, "Did you mean 'strength'"),
        ({"space": {"methods.3.ewc.strength": [1, 10]}}, "a method that is not there"),
        ({"space": {STRENGTH: [1, -1]}}, "strength=-1"),
        ({"space": {"targets.0.kwargs.slip": [0.1, 0.2]}}, "a search may vary"),
        ({"experiment": "sequence4"}, "sequence of tasks"),
        ({"overrides": {"seeds": 0}}, "seeds"),
        ({"scheduler": "pbt", "space": {"network.head": [8, 16]}}, r"the space has network\.head"),
        ({"scheduler": "pbt", "space": {"pretrain.steps": [128, 256]}}, "of the algorithm and of methods only"),
        ({"scheduler": {"name": "pbt", "every": 1024}}, "smaller 'every'"),
    ],
)
def test_bad_searches_end_before_anything_is_written(changes, message, tmp_path, capsys):
    path = write_search(tmp_path / "given", **changes)
    assert tune.main([str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    with pytest.raises(GraftError, match=message):
        raise GraftError(error)
    assert not (tmp_path / "out").exists()


def test_pbt_refuses_methods_that_end_with_another_network(tmp_path):
    path = write_search(tmp_path, {"methods": ["lora"]}, space={RATE: [1e-3, 1e-2]}, scheduler="pbt")
    search = load_search(str(path))
    with pytest.raises(GraftError, match="lora makes another network"):
        Population.of(search, make_plan(search, search.config()))


def test_an_experiment_is_no_search():
    with pytest.raises(GraftError, match="'experiment: quickstart' and a 'space:'"):
        load_search("quickstart")


@pytest.mark.parametrize("name", packaged_searches())
def test_packaged_searches_are_ready(name, capsys):
    assert tune.main([name, "--dry-run"]) == 0
    assert "Nothing was trained or written" in capsys.readouterr().out


def test_a_plan_holds_the_tuned_method_alone(tmp_path):
    path = write_search(tmp_path, {"methods": ["frozen", "ewc"], "seeds": 2}, space={"methods.1.ewc.strength": [1, 2]})
    search = load_search(str(path))
    plan = make_plan(search, search.config({"methods.1.ewc.strength": 2}))
    assert [(run.stage.method.strength, run.stage.seed) for run in plan.runs] == [(2, 0), (2, 1)]
    assert plan.budget == 2048
    assert [stage.kind for stage in plan.before(plan.runs[0])] == ["pretrain", "consolidate"]
    whole = expand(load_config(str(tmp_path / "tiny.yaml"), ["methods.1.ewc.strength=2"]))
    assert plan.stages.keys() < whole.stages.keys(), "the command that repeats a trial finds these stages"


def test_work_moves_only_when_told_to():
    moved = []

    def work(report):
        for i in range(3):
            moved.append(i)
            report(i)

    paced = Paced(work)
    assert moved == []
    assert paced.next() == 0
    time.sleep(0.05)
    assert moved == [0]
    assert [paced.next(), paced.next(), paced.next()] == [1, 2, None]


def test_work_is_stopped_where_it_waits_and_its_errors_come_out():
    ends = []

    def work(report):
        try:
            report(1)
        except Stopped:
            ends.append("stopped")
            raise

    paced = Paced(work)
    paced.next()
    paced.stop()
    assert ends == ["stopped"]

    def broken(report):
        raise GraftError("no")

    with pytest.raises(GraftError, match="no"):
        Paced(broken).next()


def test_a_ledger_survives_half_a_line_and_refuses_another_search(tmp_path):
    ledger = TrialLedger(tmp_path, {"seed": 0})
    assert ledger.add("a", env_steps=10, score=0.1)
    assert ledger.add("a", env_steps=20, score=0.2, status="stopped")
    with (tmp_path / "tune.jsonl").open("a") as file:
        file.write('{"trial": "b", "env_st')
    again = TrialLedger(tmp_path, {"seed": 0})
    assert again.trial("a").status == "stopped"
    assert [line["score"] for line in again.trial("a").reports] == [0.1, 0.2]
    assert not again.add("a", env_steps=30, score=0.3), "it has ended"
    assert again.add("b", env_steps=10, score=0.5)
    assert not again.add("b", env_steps=10, score=0.5), "known"
    assert again.add("b", env_steps=10, score=0.5, status="done")
    assert len(lines_of(tmp_path)) == 5
    with pytest.raises(GraftError, match="differs in seed"):
        TrialLedger(tmp_path, {"seed": 1})
    (tmp_path / "tune.jsonl").write_text("{}\nno\n")
    with pytest.raises(GraftError, match="was altered"):
        TrialLedger(tmp_path, {"seed": 0})


def trial_like(name):
    return SimpleNamespace(trial_id=name, config={"trial": name})


def test_a_rung_that_a_trial_skipped_is_not_held_against_it():
    from experiments.tuning.ray_tune import Rungs

    rungs = Rungs("env_steps", "score", "max", 1000, 100, 2, stop_last_trials=False)
    a, b = trial_like("a"), trial_like("b")
    for trial in (a, b):
        rungs.on_trial_add(None, trial)
    assert rungs.on_trial_result(None, b, {"env_steps": 100, "score": 0.9}) == "CONTINUE"
    assert rungs.on_trial_result(None, a, {"env_steps": 450, "score": 0.1}) == "CONTINUE"
    assert rungs.on_trial_result(None, a, {"env_steps": 500, "score": 0.1}) == "CONTINUE", "it passed the rung of 400"


def test_pbt_takes_choices_as_they_are_and_ends_of_ranges_as_fractions(tmp_path):
    from experiments.tuning import ray_tune

    assert isinstance(parse_dimension("k", {"log": [1, 100]}).inside(0.5), float)
    mixed = parse_dimension("k", [1, True, None, 2.5, "a"])
    told = ray_tune._mutation(mixed)
    assert len(set(told)) == 5
    assert all(isinstance(value, str) for value in told)
    heard = [ray_tune._heard_from({"k": value})["k"] for value in told]
    assert list(map(repr, heard)) == list(map(repr, mixed.values))
    assert ray_tune._heard_from({"k": 0.5}) == {"k": 0.5}


def test_a_population_goes_on_without_a_member_that_failed_last():
    """Ray's scheduler compares members when the last of them reports, and a member that fails does not report."""
    from experiments.tuning.ray_tune import Breeding, Trial

    options = {"time_attr": "t", "metric": "s", "mode": "max", "perturbation_interval": 1, "synch": True}
    breeding = Breeding(0, hyperparam_mutations={"k": [1, 2]}, log_config=False, **options)
    members = [Trial("x", config={"k": 1}, stub=True) for _ in range(3)]
    controller = SimpleNamespace(
        search_alg=None,
        get_trials=lambda: members,
        get_live_trials=lambda: {member for member in members if not member.is_finished()},
    )
    for member in members:
        breeding.on_trial_add(controller, member)
        member.set_status(Trial.RUNNING)
    for member, score in zip(members[:2], (1.0, 2.0), strict=True):
        assert breeding.on_trial_result(controller, member, {"t": 1, "s": score}) == "PAUSE"
        member.set_status(Trial.PAUSED)
    assert breeding.choose_trial_to_run(controller) is None, "the third is still at it"
    members[2].set_status(Trial.ERROR)
    assert breeding.choose_trial_to_run(controller) in members[:2]


def test_a_population_is_a_search_of_its_own_for_each_size(tmp_path):
    path = write_search(tmp_path, scheduler="pbt")
    three, four = (load_search(str(path), trials=n).identity for n in (3, 4))
    assert {key for key in three if three[key] != four[key]} == {"trials"}
    path = write_search(tmp_path, scheduler="asha")
    assert load_search(str(path), trials=3).identity == load_search(str(path), trials=4).identity


def test_a_source_that_fails_ends_its_trials_alone(tmp_path):
    path = write_search(tmp_path, space={RATE: [1e-3, 1e-2], STRENGTH: {"log": [1, 2]}}, trials=5)
    search = load_search(str(path))
    session = tune.Session(Console(quiet=True), search, tmp_path / "out", 1, "local")
    (tmp_path / "out").mkdir()
    ledger = TrialLedger(tmp_path / "out", search.identity)
    plan = session.plans[session.trials[1].id]
    bad = next(plan.before(plan.runs[0]))
    hit = {i for i, plan in session.plans.items() if bad.id in plan.stages}
    assert 0 < len(hit) < 5
    assert session._fail(ledger, {bad.id: "it broke"})
    assert {i for i in session.plans if ledger.trial(i).status == "failed"} == hit
    assert all("it broke" in ledger.trial(i).error for i in hit)


def test_a_segment_goes_on_with_its_parents_weights_and_memory(tmp_path):
    path = write_search(tmp_path, scheduler={"name": "pbt", "every": 256})
    search = load_search(str(path))
    population = Population.of(search, make_plan(search, search.config()))
    assert population.generations == 4
    first = population.segments({STRENGTH: 5, RATE: 1e-3}, 0, None)[0]
    second = population.segments({STRENGTH: 7, RATE: 1e-3}, 1, ["0" * 16])[0]
    assert (first.budget, first.begun, second.begun, second.whole) == (256, 0, 256, 1024)
    assert first.random_seeds() != second.random_seeds(), "every piece has levels of its own"
    assert second.source == first.source
    other = population.segments({STRENGTH: 7, RATE: 1e-3}, 1, ["1" * 16])[0]
    assert other.id != second.id
    assert other.random_seeds() == second.random_seeds(), "members are compared on the same levels"

    task = first.task
    small = first.network
    parent_network = build_network(schemas(task), small, 3)
    memory = {"anchor": torch.arange(3.0)}
    parent = Checkpoint.of(parent_network, task, parts={PART: memory})
    source = Checkpoint.of(build_network(schemas(task), small, 4), task)
    method = parse_method({"finetune": {"gradual_unfreeze": True}})
    going = going_on(method, parent, begun=0.5, share=0.25)
    built = going.build(source, schemas(task), small, 0).network
    state = going.init(built, source)
    assert all(torch.equal(t, parent_network.state_dict()[name]) for name, t in built.state_dict().items())
    assert state.keys() == memory.keys()
    assert method_json(going) == method_json(method)
    with_memory = {"frozen": torch.tensor(0)}
    blocks = len(built.encoder.blocks)
    going.schedule(built, with_memory, 1.0)
    at_the_end_of_the_piece = built.encoder.frozen_blocks
    assert at_the_end_of_the_piece == method.frozen_blocks(blocks, 0.75)


def test_the_last_segment_is_what_is_left():
    stage = next(iter(expand(load_config("quickstart")).stages.values()))
    last = segment_of(stage, 2, "0" * 16, 50_000)
    assert (last.begun, last.budget, last.whole) == (100_000, 20_000, 120_000)


@pytest.fixture(scope="module")
def halved(tmp_path_factory, one_ray):
    """A search by ASHA, one trial at a time, so that rungs fill in one order: its file and its folder."""
    folder = tmp_path_factory.mktemp("halved")
    path = write_search(folder, scheduler={"name": "asha", "reduction": 2, "grace": 256}, trials=6)
    assert tune.main([str(path), "--out", str(folder / "out"), "--jobs", "1"]) == 0
    return path, folder / "out"


@pytest.mark.slow
def test_asha_stops_the_worse_trials_early(halved):
    _, out = halved
    trials = results_of(out)["trials"]
    assert {trial["status"] for trial in trials} == {"done", "stopped"}
    rungs = {256: [], 512: []}
    for line in lines_of(out)[1:]:  # the rule, worked out here
        if line["env_steps"] in rungs:
            rung = rungs[line["env_steps"]]
            worse = bool(rung) and line["score"] < np.percentile(rung, 50)
            rung.append(line["score"])
            assert (line.get("status") == "stopped") == worse
    for trial in trials:
        assert (trial["env_steps"] == trial["budget"] == 1024) == (trial["status"] == "done")
        assert trial["status"] == "done" or trial["env_steps"] in rungs
    assert [t["status"] for t in trials] == sorted(t["status"] for t in trials), "those that are done come first"
    cost = results_of(out)["cost"]
    assert cost["transfers"] < cost["transfers_without_stopping"]


@pytest.mark.slow
def test_stopped_stages_say_so_and_done_ones_are_ordinary(halved, tmp_path):
    path, out = halved
    store, search = Store(out), load_search(str(path))
    trials = {trial["id"]: trial for trial in results_of(out)["trials"]}
    for trial in search.sampled():
        stage = make_plan(search, search.config(trial.values)).runs[0].stage
        assert store.record(stage.id)["status"] == trials[trial.id]["status"]
    assert not (out / ".tune").exists()
    best = results_of(out)["trials"][0]
    words = best["command"].split("experiments.run ")[1].split()[1:]
    graph = expand(load_config(str(path.parent / "tiny.yaml"), [word.strip("'") for word in words]))
    tuned = [graph.stages[i] for i in graph.stages if store.record(i) is not None and store.done(i)]
    assert {stage.kind for stage in tuned} == {"pretrain", "consolidate", "transfer"}
    alone = Store(tmp_path)
    for stage in tuned:
        run_stage(stage, alone, lambda env_steps, values: None)
    assert_left_the_same(tuned, store, alone)


@pytest.mark.slow
def test_a_search_that_lost_its_last_lines_goes_on_and_trains_nothing_twice(halved, tmp_path, capsys):
    """As a kill would leave it: one trial has ended, one is under way, the others have not begun."""
    path, out = halved
    shutil.copytree(out, tmp_path / "out")
    whole = (out / "tune.jsonl").read_text().splitlines()
    ends = [i for i, line in enumerate(whole) if '"status"' in line]
    (tmp_path / "out" / "tune.jsonl").write_text("\n".join(whole[: ends[0] + 2]) + "\n")
    done = done_stages(tmp_path / "out")
    assert tune.main([str(path), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert "5 of 6 trials to run" in capsys.readouterr().out
    assert lines_of(tmp_path / "out") == lines_of(out)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert tune.main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert "all 6 trials have ended already" in capsys.readouterr().out
    record = (tmp_path / "out" / "experiment.json").read_bytes()
    assert tune.main([str(path), "--out", str(tmp_path / "out"), "--seed", "5"]) == 2
    assert "another search, which differs in seed" in capsys.readouterr().err
    gone = next(trial for trial in results_of(out)["trials"] if trial["status"] == "done")["stages"][-1]
    shutil.rmtree(tmp_path / "out" / "stages" / gone)
    assert tune.main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert "which is done, is gone; remove" in capsys.readouterr().err
    assert (tmp_path / "out" / "experiment.json").read_bytes() == record


@pytest.mark.slow
def test_pbt_breeds_from_better_members_and_makes_the_same_choices_again(tmp_path, one_ray):
    short = {"transfer": {"steps": 384}}
    path = write_search(tmp_path, short, scheduler={"name": "pbt", "every": 128, "quantile": 0.5}, trials=3)
    out = tmp_path / "out"
    assert tune.main([str(path), "--out", str(out), "--jobs", "2"]) == 0
    store, reports = Store(out), lines_of(out)[1:]
    assert len(reports) == 9
    owner = {stage: report["trial"] for report in reports for stage in report["stages"]}
    by = {(report["trial"], report["generation"]): report for report in reports}
    bred = [r for r in reports if r["parents"] and owner[r["parents"][0]] != r["trial"]]
    assert bred
    for report in bred:
        donor = by[owner[report["parents"][0]], report["generation"] - 1]
        assert donor["score"] >= by[report["trial"], report["generation"] - 1]["score"]
        assert report["values"] != donor["values"], "explored"
        assert 0.1 <= report["values"][STRENGTH] <= 1000
        record = store.record(report["stages"][0])
        assert record["spec"]["segment"]["parent"] == report["parents"][0] == donor["stages"][0]
        assert record["spec"]["method"]["strength"] == report["values"][STRENGTH]
    assert len({store.record(i)["spec"]["source"] for i in owner}) == 1, "one source for all"
    best = results_of(out)["trials"][0]
    assert [step["generation"] for step in best["lineage"]] == [0, 1, 2]
    assert best["lineage"][-1]["stages"] == best["stages"]

    made = {p: p.stat().st_mtime_ns for p in out.glob("stages/*/stage.json")}
    before = sorted(map(json.dumps, reports))
    (out / "tune.jsonl").write_text("\n".join((out / "tune.jsonl").read_text().splitlines()[:5]) + "\n")
    assert tune.main([str(path), "--out", str(out), "--jobs", "2"]) == 0
    assert sorted(map(json.dumps, lines_of(out)[1:])) == before
    assert {p: p.stat().st_mtime_ns for p in out.glob("stages/*/stage.json")} == made


def processes_of(folder):
    """Ids of processes that were started with this folder for Ray's files."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            marked = f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes().split(b"\0")
            if marked and (path / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(int(path.name))
    return found


def wait_until(condition, seconds, process=None):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_was_ended_leaves_nothing_running_and_goes_on(end, tmp_path):
    path = write_search(tmp_path, {"transfer": {"steps": 20_000}, "evaluation": {"every": 1024}}, scheduler="none")
    folder = tempfile.mkdtemp(prefix="graft-ray-", dir="/tmp")  # short: Ray's sockets are in it

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.tune", str(path), "--out", str(tmp_path / "out"), "--jobs", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def ended():
        file = tmp_path / "out" / "tune.jsonl"
        return file.read_text().count('"status"') if file.exists() else 0

    try:
        process = start()
        wait_until(ended, 300, process)
        os.killpg(process.pid, end) if end == signal.SIGINT else os.kill(process.pid, end)
        printed = process.communicate(timeout=60)[0]
        if end == signal.SIGINT:
            assert process.returncode == 130, printed
            assert "the same command goes on from there" in printed
            assert "Traceback" not in printed
        wait_until(lambda: not processes_of(folder), 30)
        done = done_stages(tmp_path / "out")
        before = ended()
        assert 1 <= before < 4
        process = start()
        printed = process.communicate(timeout=400)[0]
        assert process.returncode == 0, printed
        assert f"{4 - before} of 4 trials to run" in printed
        assert {p: p.stat().st_mtime_ns for p in done} == done
        assert [trial["status"] for trial in results_of(tmp_path / "out")["trials"]] == ["done"] * 4
        wait_until(lambda: not processes_of(folder), 30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
