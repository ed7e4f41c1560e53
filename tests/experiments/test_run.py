"""The command line, end to end, as a user runs it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from pydantic import TypeAdapter
from rich.console import Console
from support.tiny_experiment import write_config

from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments import run
from graft.experiments.config.experiment import AnyConfig, load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.playback.clips import FRAMES, MARGIN, TITLE, panels
from graft.experiments.report.serve import LivePage
from graft.experiments.report.so_far import ProgressWithResults, latest
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.records import Store
from graft.transfer.method import label

ROOT = Path(__file__).parents[2]


def command(*arguments, **options):
    """`graft run` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", "graft", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=_hear_ctrl_c,
        **options,
    )


def _hear_ctrl_c():
    """A shell starts background jobs deaf to it, and what these start inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def gone(group, seconds=15):
    """Whether a group of processes ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def finish(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """The tiny experiment, run once: its folder, its config, and what was printed."""
    folder = tmp_path_factory.mktemp("cli")
    config = write_config(folder, clips=True)
    code, out, err = finish(command(config, "--out", folder / "out", "--jobs", 1))
    assert code == 0, err
    return folder / "out", config, out


def without_clock(results):
    """Results without what differs between two equal runs."""
    stages = [{**stage, "seconds": 0, "cost": {}} for stage in results["stages"]]
    return {**results, "cost": {}, "stages": stages, "rows": [{**row, "cost": {}} for row in results["rows"]]}


def test_results_hold_rows_and_stages(experiment):
    out, _, _ = experiment
    results = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == [
        "scratch",
        "random_frozen",
        "frozen",
        "finetune(heads=by_name)",
    ]
    for row in results["rows"]:
        assert {"source", "target", "seeds", "transfer_ratio", "jumpstart", "final", "steps_to_threshold"} < row.keys()
        assert row["verdict"] in ("positive", "negative", "unclear", "baseline")
    assert len(results["stages"]) == 10
    assert {stage["status"] for stage in results["stages"]} == {"done"}
    assert all(stage["env_steps"] == 256 and stage["seconds"] > 0 for stage in results["stages"])


def test_the_command_is_recorded(experiment):
    out, config, _ = experiment
    record = json.loads((out / "experiment.json").read_text())
    assert record["invocations"][0]["command"] == ["graft", "run", str(config), "--out", str(out), "--jobs", "1"]


def test_the_module_of_the_checkout_is_the_command_as_well():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: graft run ")


def test_progress_and_tables_are_printed(experiment):
    _, _, printed = experiment
    assert "10 of 10 stages to run" in printed
    assert "[10/10]" in printed
    assert "Dodge → Dodge(slip=0.3)" in printed
    assert "finetune(heads=by_name)" in printed
    assert "verdict" in printed


def test_the_results_are_a_page_as_well(experiment, tmp_path):
    """With the numbers of ``results.json`` behind its cells, and a config that makes the same experiment."""
    out, config, printed = experiment
    text = (out / "report.html").read_text(encoding="utf-8")
    for row in json.loads((out / "results.json").read_text())["rows"]:
        low, high = row["auc"]["low"], row["auc"]["high"]
        assert f'data-value="{row["auc"]["iqm"]}" data-low="{low}" data-high="{high}"' in text
    (written,) = re.findall(r'href="data:text/yaml;base64,([^"]+)" download="tiny.yaml"', text)
    (tmp_path / "tiny.yaml").write_bytes(base64.b64decode(written))
    assert load_config(str(tmp_path / "tiny.yaml")).model_dump() == load_config(str(config)).model_dump()
    assert text.count("data:image/gif;base64,") == 1
    assert f"All of it in one page: {out}/report.html" in printed


@pytest.fixture
def killed(experiment, tmp_path):
    """The experiment as SIGKILL leaves it: one stage still runs, one failed, and results are those so far."""
    out, failures = tmp_path / "out", {}
    shutil.copytree(experiment[0], out, ignore=shutil.ignore_patterns("results.json", "*.html", "*.gif", "*.png"))
    for record in (json.loads(path.read_text()) for path in sorted(out.glob("stages/*/stage.json"))):
        folder, ends = out / "stages" / record["id"], record["label"].endswith("seed 1")
        kept = {key: record[key] for key in ("id", "label", "kind", "spec")}
        if record["label"].startswith("finetune") and ends:
            (folder / "stage.json").write_text(json.dumps({**kept, "status": "running"}))
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            at = next(k for k, line in enumerate(lines) if json.loads(line)["env_steps"] == 128)
            (folder / "metrics.jsonl").write_text("\n".join([*lines[: at + 1], lines[at + 1][:9]]))
        elif record["label"].startswith("random_frozen") and ends:
            failed = {"status": "failed", "error": "Traceback\nValueError: no such thing\n"}
            (folder / "stage.json").write_text(json.dumps({**kept, **failed}))
            failures[record["id"]] = "ValueError: no such thing"
    config = TypeAdapter(AnyConfig).validate_python(json.loads((out / "experiment.json").read_text())["config"])
    graph, store = expand(config), Store(out)

    def results(failed):
        return run.kind_of(config).results(config, graph, store, failed)[1]

    progress = ProgressWithResults(Console(quiet=True), list(graph.stages.values()), 0, out / "results.json", results)
    for stage, error in failures.items():
        progress.finished(graph.stages[stage], error)
    progress.tick()
    return out


def test_the_report_of_a_killed_run_is_of_what_is_there(experiment, killed):
    from graft.experiments.report.__main__ import main as report

    results, whole = latest(killed).results, json.loads((experiment[0] / "results.json").read_text())
    stages = {stage["label"]: stage for stage in results["stages"]}
    running = stages["finetune(heads=by_name) · Dodge(slip=0.3) · seed 1"]
    assert (running["status"], running["env_steps"]) == ("running", 128)
    assert stages["random_frozen · Dodge(slip=0.3) · seed 1"]["error"] == "ValueError: no such thing"
    same = ("scratch", "frozen")
    assert [r for r in results["rows"] if r["method"] in same] == [r for r in whole["rows"] if r["method"] in same]
    assert [row["missing_seeds"] for row in results["rows"]] == [0, 1, 0, 1]
    assert report([str(killed)]) == 0
    text = (killed / "report.html").read_text(encoding="utf-8")
    order = [text.index(words) for words in ("FAILED: 1 of 10", "UNFINISHED: 1 of 10", "<table")]
    assert order == sorted(order)


def test_the_report_of_somebody_elses_folder_runs_none_of_its_code(killed, monkeypatch):
    (killed / "payload.py").write_text("raise SystemExit('code of the folder ran')")
    record = json.loads((killed / "experiment.json").read_text())
    for key, name in (("methods", "payload:Method"), ("sinks", "payload:Sink"), ("sources", "payload:Env-v0")):
        record["config"][key] = [name]
    (killed / "experiment.json").write_text(json.dumps(record))
    os.utime(next(killed.glob("stages/*/stage.json")), (2e9, 2e9))
    monkeypatch.chdir(killed)
    monkeypatch.syspath_prepend(str(killed))
    assert "UNFINISHED" in LivePage(killed).text()
    (killed / "results.json").unlink()
    with pytest.raises(GraftError, match="has no results"):
        latest(killed)
    assert "payload" not in sys.modules


def test_the_page_is_served_while_a_run_goes_on(killed, experiment, monkeypatch):
    from graft.experiments.report import serve

    def get(path=""):
        with urllib.request.urlopen(f"http://127.0.0.1:{made.server_port}/{path}", timeout=20) as answer:
            return answer.read().decode(), answer.headers

    with serve.server(killed, 0) as made, socket.create_connection(made.server_address):  # one that says nothing
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            text, headers = get()
            assert "UNFINISHED: 1 of 10" in text
            assert headers["Refresh"] == "10"
            shutil.copytree(experiment[0], killed, dirs_exist_ok=True)  # the run has ended
            assert get()[0] == text, "not made again at once"
            monkeypatch.setattr(serve, "PERIOD", 0.0)
            text, headers = get()
            assert "UNFINISHED" not in text
            assert "Learning curves" in text
            assert headers["Refresh"] is None
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get("stages")
        finally:
            made.shutdown()
            thread.join()


def test_plots_are_pictures(experiment):
    from matplotlib import image

    picture = image.imread(experiment[0] / "curves.png")
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05, "an empty page has no contrast"


def test_a_clip_shows_agents_before_and_after(experiment):
    out, config, printed = experiment
    graph, store = expand(load_config(str(config))), Store(out)
    (target,) = {comparison.target for comparison in graph.comparisons}
    shown = panels(graph, store, target)
    assert [(panel.title, panel.task) for panel in shown[:3]] == [
        ("the source's agent, on its task", shown[0].agent.task),
        ("the same agent, on the target", target),
        ("scratch, 256 steps later", target),
    ]
    best = max(("frozen", "finetune(heads=by_name)"), key=lambda name: final_return(graph, store, name))
    assert shown[3].title == f"{best.partition('(')[0]}, 256 steps later"
    assert str(out / "clip_1.gif") in printed
    with Image.open(out / "clip_1.gif") as clip:
        assert clip.n_frames > FRAMES // 2  # equal frames are shown longer
        assert clip.size == (4 * 192 + 5 * MARGIN, 192 + TITLE)


def final_return(graph, store, name):
    (stages,) = (c.stages for c in graph.comparisons if label(c.method) == name)
    return sum(store.evaluations(i).scores[-1] for i in stages)


def test_every_transfer_keeps_its_transplant_report(experiment):
    out, _, _ = experiment
    reports = list(out.glob("stages/*/transplant.json"))
    assert len(reports) == 4  # two methods, two seeds
    assert all(json.loads(path.read_text())["rows"] for path in reports)


def test_the_second_run_trains_nothing(experiment, capsys):
    out, config, _ = experiment
    before = {path: path.read_bytes() for path in out.glob("stages/*/stage.json")}
    assert run.main([str(config), "--out", str(out)]) == 0
    assert "all 10 stages are done already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_page_that_cannot_be_written_leaves_the_exit_code(experiment, capsys, monkeypatch):
    out, config, _ = experiment

    def full(*_):
        raise GraftError("report.html can't be written (No space left on device); choose another --html.")

    monkeypatch.setattr("graft.experiments.report.page.render.write_page", full)
    assert run.main([str(config), "--out", str(out)]) == 0
    assert "Note: no page of it: report.html can't be written" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_results(experiment, tmp_path):
    undisturbed, config, _ = experiment
    process = command(config, "--out", tmp_path / "out", "--jobs", 1, start_new_session=True)
    while not list(tmp_path.glob("out/stages/*/metrics.jsonl"))[2:]:
        time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, printed, err = finish(command(config, "--out", tmp_path / "out", "--jobs", 1))
    assert code == 0, err
    assert "10 of 10 stages to run" not in printed, "finished stages were run again"
    results = [json.loads((folder / "results.json").read_text()) for folder in (undisturbed, tmp_path / "out")]
    assert without_clock(results[0]) == without_clock(results[1])


def test_ctrl_c_says_how_to_go_on_and_leaves_no_workers(tmp_path):
    long = "pretrain.steps=1000000"  # so that it does not end before it is interrupted
    process = command(write_config(tmp_path), long, "--out", tmp_path / "out", "--jobs", 1, start_new_session=True)
    while not list(tmp_path.glob("out/stages/*/metrics.jsonl")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, printed, err = finish(process, timeout=30)
    assert code == 130
    assert "the same command goes on from there" in printed
    assert "Traceback" not in err
    assert gone(process.pid), "a process of the run is still there"


def test_dry_run_prints_reports_and_writes_nothing(tmp_path, capsys):
    config = write_config(tmp_path, targets="Graft/Hunt-v0")
    assert run.main([str(config), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "is_chasing (zero)" in printed.replace("\n", " ")
    assert "10 stages, 2,560 env steps" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quickstrt"], "Did you mean 'quickstart'"),
        (["methods=[frozn]"], "Did you mean 'frozen'"),
        (["sources=Graft/Gathr-v0"], "Did you mean 'Graft/Gather-v0'"),
        (["sources=CartPol-v1"], "Did you mean 'CartPole-v1'"),
        (["targets.0.kwargs.slp=0.2"], "Did you mean 'slip'"),
        (["targets.0.kwargs.slip=2"], "slip=2 is not allowed; it is a number from 0 to 1"),
        (["seedz=2"], "Did you mean 'seeds'"),
        (["mechanics_gather", "targets=CartPole-v1"], "shares nothing with the source"),
        (["methods=[{frozen: {depth: 9}}]"], "depth 9 is not allowed"),
        (["methods=[{finetune: {strict: true}}]", "targets=Graft/Hunt-v0"], "strict=true"),
        (["mechanics_gather", "methods=[{finetune: {rename: {is_pickup: is_pikup}}}]"], "Did you mean 'is_pickup'"),
        (["network.encoder=nature_cnn"], "cannot take a planes observation"),
        (["sources=[{checkpoint: nowhere}]"], "no checkpoint at nowhere"),
        (["quickstart", "mechanics_gather"], "One config at a time"),
        (["--jobs", "0"], "--jobs 0 is not allowed"),
        (["--workers", "0"], "--workers 0 is not allowed"),
        (["--gpus", "0.5"], "--gpus is for --launcher ray"),
        (["--launcher", "ray", "--gpus", "1.5"], "--gpus 1.5 is not allowed"),
        (["--launcher", "ray", "--address", "head"], "--address head is not allowed"),
        (["targets.0.kwargs.seed=3"], "Unknown mechanic of Graft/Gather-v0 'seed'"),
        (["sources=no_such_module:Game-v0"], "Module 'no_such_module'"),
        (["mechanics_gather", "targets=[{id: Pendulum-v1, kwargs: {g: abc}}]"], "Pendulum-v1"),
        (["--out", "/dev/null/x"], "cannot be"),
        (["seeds=[1, 1]"], "seed 1 is listed twice"),
        (["sequence=[Graft/Gather-v0, Graft/Hunt-v0]"], "has both 'sources' and 'sequence'"),
        (["--describe", "packnett"], "Did you mean 'packnet'"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may be written"


def test_a_missing_package_ends_with_2_and_the_install_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "envpool", None)
    schemas.cache_clear()
    assert run.main(["minigrid"]) == 2
    assert "pip install 'graft-rl[games]'" in capsys.readouterr().err


def test_another_experiments_folder_ends_with_2(experiment, capsys):
    out, config, _ = experiment
    before = (out / "results.json").read_bytes()
    assert run.main([str(config), "transfer.steps=128", "--out", str(out)]) == 2
    assert "holds another experiment" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == before


def test_a_damaged_checkpoint_ends_with_2(experiment, tmp_path, capsys):
    import shutil

    out, config, _ = experiment
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    weights = next(copy.glob("stages/*/checkpoint/weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert run.main([str(config), "--out", str(copy)]) == 2
    assert "weights.safetensors was truncated or altered" in capsys.readouterr().err


def test_a_finished_agent_is_a_source_for_the_next_experiment(experiment, tmp_path, capsys):
    out, _, _ = experiment
    checkpoint = next(p.parent / "checkpoint" for p in out.glob("stages/*/stage.json") if '"pretrain"' in p.read_text())
    config = write_config(
        tmp_path,
        sources={"checkpoint": str(checkpoint)},
        targets="Graft/Hunt-v0",
        methods="frozen",
        seeds=1,
        network=None,
    )
    loaded, store = load_config(str(config)), Store(tmp_path / "out")
    store.open(loaded)
    for stage in expand(loaded).stages.values():
        run_stage(stage, store, lambda *_: None)
    assert run.main([str(config), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["rows"][2]["source"] == f"checkpoint {checkpoint}"
    manifests = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("stages/*/checkpoint/manifest.json")]
    parent = json.loads((checkpoint / "manifest.json").read_text())["id"]
    assert [m["lineage"] for m in manifests].count([parent]) == 1


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        run.main(["--help"])
    assert ended.value.code == 0
    assert "graft run mechanics --dry-run" in capsys.readouterr().out
