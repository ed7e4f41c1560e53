"""The command with real trials: early stopping, going on after a kill, more trials, and Ray."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.search_fixtures import RATE, STRENGTH, write_search
from support.stage_outcomes import assert_same_outcomes

from graft.experiments import tune
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.search.definition import load_search
from graft.experiments.search.plan import make_plan
from graft.experiments.search.trials import FILE, Trials
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store

ROOT = Path(__file__).parents[3]


def done_stages(out):
    """When their records were written, by path."""
    return {p: p.stat().st_mtime_ns for p in out.glob("stages/*/stage.json") if '"done"' in p.read_text()}


def results_of(out):
    return json.loads((out / "tune.json").read_text())


def test_a_packaged_search_shows_its_first_trials_and_writes_nothing(tmp_path, capsys):
    assert tune.main(["tune_ewc", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "the experiment as it is" in printed
    assert "The other 6 are sampled by what these find." in printed
    assert "Nothing was trained or written" in printed
    assert not (tmp_path / "out").exists()


def test_rays_options_need_its_launcher(capsys):
    assert tune.main(["tune_ewc", "--address", "local"]) == 2
    assert "--address is for --launcher ray" in capsys.readouterr().err


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """A search by ASHA: its file and its folder."""
    folder = tmp_path_factory.mktemp("halved")
    path = write_search(folder, scheduler={"name": "asha", "reduction": 2, "grace": 256}, trials=5)
    assert tune.main([str(path), "--out", str(folder / "out"), "--jobs", "1"]) == 0
    return path, folder / "out"


@pytest.mark.slow
def test_stopped_stages_say_so_and_a_trials_command_trains_the_same(halved, tmp_path):
    path, out = halved
    store, search, trials = Store(out), load_search(str(path)), results_of(out)["trials"]
    assert {trial["status"] for trial in trials} == {"done", "stopped"}
    assert [t["status"] for t in trials] == sorted(t["status"] for t in trials), "those that are done come first"
    for trial in trials:
        stage = make_plan(search, trial["values"]).runs[0].stage
        assert trial["stages"] == [stage.id]
        assert store.record(stage.id)["status"] == trial["status"]
        assert (trial["env_steps"] == trial["budget"] == 1024) == (trial["status"] == "done")
        assert store.evaluations(stage.id).steps[-1] == trial["env_steps"] == trial["reports"][-1][0]
    cost = results_of(out)["cost"]
    assert cost["transfers"] < cost["transfers_without_stopping"]
    config, *words = shlex.split(trials[0]["command"])[3:]
    graph = expand(load_config(config, words))
    tuned = [stage for stage in graph.stages.values() if store.record(stage.id) is not None and store.done(stage.id)]
    assert {stage.kind for stage in tuned} == {"pretrain", "consolidate", "transfer"}
    alone = Store(tmp_path)
    for stage in tuned:
        run_stage(stage, alone, lambda env_steps, values: None)
    assert_same_outcomes(tuned, store, alone)


@pytest.mark.slow
def test_more_trials_are_added_and_a_folder_of_the_ray_tune_version_is_used(halved, capsys):
    path, out = halved
    command = [str(path), "--out", str(out), "--jobs", "2"]
    done = done_stages(out)
    assert tune.main(command) == 0
    assert "all 5 trials have ended already" in capsys.readouterr().out
    assert tune.main([*command, "--trials", "6"]) == 0
    assert "1 of 6 trials to run" in capsys.readouterr().out
    assert {trial["index"] for trial in results_of(out)["trials"]} == set(range(6))
    assert tune.main([*command, "--seed", "5"]) == 2
    assert "another search, which differs in seed" in capsys.readouterr().err

    (out / FILE).rename(out / "tune.jsonl")
    assert tune.main([*command, "--trials", "2"]) == 0
    assert {p: p.stat().st_mtime_ns for p in done} == done, "nothing was trained again"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_run_under_ray_and_are_stopped_there(tmp_path, one_ray):
    space = {STRENGTH: [0.5, 50], RATE: [1e-5, 1e-2]}
    path = write_search(tmp_path, space=space, scheduler={"name": "asha", "reduction": 2, "grace": 256}, trials=4)
    out = tmp_path / "out"
    assert tune.main([str(path), "--out", str(out), "--launcher", "ray", "--jobs", "2"]) == 0
    trials = results_of(out)["trials"]
    assert len(trials) == 4
    assert {trial["status"] for trial in trials} <= {"done", "stopped"}
    for trial in trials:
        assert Store(out).record(trial["stages"][0])["status"] == trial["status"]


def wait_until(condition, seconds, process):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_was_ended_goes_on_with_the_same_trials(end, tmp_path):
    path = write_search(
        tmp_path, {"transfer": {"steps": 4096}, "evaluation": {"every": 1024}}, scheduler="none", trials=3
    )
    out = tmp_path / "out"

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "graft", "tune", str(path), "--out", str(out), "--jobs", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def ended():
        return (out / FILE).exists() and '"state":1' in (out / FILE).read_text()

    process = start()
    wait_until(ended, 300, process)
    os.killpg(process.pid, end) if end == signal.SIGINT else os.kill(process.pid, end)
    printed = process.communicate(timeout=60)[0]
    if end == signal.SIGINT:
        assert process.returncode == 130, printed
        assert "the same command goes on from there" in printed
        assert "Traceback" not in printed
    done = done_stages(out)

    def numbers():
        """Optuna's, and the values, by our own index."""
        trials = Trials(load_search(str(path)), out, 4096).all()
        return {index: (trial.number, trial.user_attrs["values"]) for index, trial in trials.items()}

    begun = numbers()
    assert 2 <= len(begun) <= 3
    process = start()
    printed = process.communicate(timeout=400)[0]
    assert process.returncode == 0, printed
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert [trial["status"] for trial in results_of(out)["trials"]] == ["done"] * 3
    assert {index: found for index, found in numbers().items() if index in begun} == begun, "they went on"
