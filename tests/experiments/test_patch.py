"""``graft patch``: numbers of a game whose returns are known, exit codes, and what other programs read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from support import patched_env
from support.html_page import Page
from support.patched_env import AGENT, PATCHED
from support.tiny_experiment import TINY
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments import patch
from graft.experiments.config.patch import PatchConfig, load_patch
from graft.experiments.launchers.launcher import attempt
from graft.experiments.patching import check, gates
from graft.experiments.patching.prepare import prepare
from graft.experiments.store.records import Store
from graft.transfer.metrics import Curve

TASK = Task("support.patched_env:Sides-v0", AGENT)
SMALL = {
    "new": PATCHED,
    "methods": [{"finetune": {"heads": "by_name"}}],
    "seeds": 2,
    "steps": 0,
    "episodes": 8,
    "algorithm": TINY["algorithm"],
    "evaluation": {"every": 64, "episodes": 8, "num_envs": 8},
}
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>"
STRANGE = f"{HOSTILE} \x01 [bold]&amp;"


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An untrained agent; its game pays the same whatever it does."""
    folder = tmp_path_factory.mktemp("agent")
    Checkpoint.of(small_network(schemas(TASK)), TASK).save(folder / "checkpoint")
    return folder


def checked(folder, agent, *words, **keys):
    """Exit code, and what --json, --junit and --html have."""
    file = folder / "check.yaml"
    file.write_text(yaml.safe_dump({"agent": str(agent), **SMALL, **keys}), encoding="utf-8")
    paths = [folder / name for name in ("a/patch.json", "patch.xml", "patch.html")]
    options = [w for pair in zip(("--json", "--junit", "--html"), map(str, paths), strict=True) for w in pair]
    code = patch.main([str(file), "--out", str(folder / "run"), *options, *words])
    return code, json.loads(paths[0].read_bytes()), ElementTree.parse(paths[1]).getroot(), paths[2].read_text("utf-8")


class Here:
    """Runs stages in this process; those of the method ``failing`` fail."""

    jobs = 1

    def __init__(self, failing=None):
        self.failing = failing

    def run(self, queue, store, listener):
        class Reporter:
            def __call__(self, *_):
                pass

            noted = __call__

        while (stage := queue.take()) is not None:
            listener.started(stage)
            fails = self.failing is not None and self.failing in stage.label
            queue.finish(stage, "out of luck" if fails else attempt(stage, store, Reporter(), 1))


def test_numbers_gates_and_scenarios(agent, tmp_path, capsys):
    side = {"of": "info", "name": "side", "is": "!=", "value": 0, "when": "always"}
    scenarios = [
        {"name": "sides", "measure": side, "min": 1, "episodes": 8},
        {"name": STRANGE, "on": "old", "kwargs": {"pay": 2.0}, "max": 7.5, "episodes": 8, "seed": 3},
    ]
    gates = [{"zero_shot": 0.5}, {"zero_shot": 0.51}]
    code, data, junit, html = checked(tmp_path, agent, gates=gates, scenarios=scenarios)
    assert code == 1
    assert data["version"] == 1
    assert not data["scored"]
    assert data["zero_shot"]["old"]["return"] == {"mean": 4, "low": 4, "high": 4}
    assert data["zero_shot"]["new"]["return"]["mean"] == 2
    assert data["zero_shot"]["share"]["mean"] == 0.5
    assert data["zero_shot"]["new"]["episodes"] == 16  # eight for each seed
    assert [gate["passed"] for gate in data["gates"]] == [True, False]
    assert [(s["passed"], s["measured"]) for s in data["scenarios"]] == [(True, 1), (False, 8)]
    assert {(c["what"], c["change"], *c["names"]) for c in data["schema_changes"]} == {
        ("observations", "added", "hazard"),
        ("actions", "added", "wait"),
    }

    assert junit.get("tests") == "4"
    assert junit.get("failures") == "2"
    cases = junit.findall("./testsuite/testcase")
    assert [case.find("failure") is None for case in cases] == [True, False, True, False]
    assert cases[3].get("name") == f"scenario: {STRANGE.replace(chr(1), '?')}"
    assert "8.00, allowed 7.5 or less" in cases[3].find("failure").get("message")

    page = Page(html)
    assert HOSTILE in page.all("main")[0][2]
    assert not page.all("img")
    assert len(page.all("script")) == 1
    assert "FAILED" in page.all("main")[0][2]

    out = capsys.readouterr().out
    order = ["What changed", "Transplant", "Before any training", "Scenarios", "Gates"]
    assert sorted(order, key=out.index) == order
    assert "[bold]" in out


def test_the_default_method_races_and_says_what_it_kept(agent, tmp_path, monkeypatch, capsys):
    """The game pays alike whatever is played, so that nothing is clearly better than scratch."""
    monkeypatch.setattr(patch, "launcher_of", lambda _: Here())
    file = tmp_path / "check.yaml"
    keys = {**SMALL, "agent": str(agent), "steps": 256, "seeds": 1}
    del keys["methods"]
    file.write_text(yaml.safe_dump(keys), encoding="utf-8")
    out = tmp_path / "patch.json"
    assert patch.main([str(file), "--out", str(tmp_path / "run"), "--json", str(out)]) == 0
    raced, scratch, _ = json.loads(out.read_bytes())["methods"]
    assert (raced["method"], raced["race"]["kept"]) == ("auto", ["scratch"])
    assert raced["race"]["candidates"] == ["finetune(heads=by_name)", "finetune(heads=fresh)", "scratch"]
    assert scratch["race"] is None
    assert "auto: of 1 seed, kept scratch in 1" in capsys.readouterr().out


def test_all_passed_is_0(agent, tmp_path):
    code, data, junit, html = checked(tmp_path, agent, gates=[{"zero_shot": 0.5}])
    assert (code, data["passed"], junit.get("failures")) == (0, True, "0")
    assert "All 1 passed." in html


def test_training_goes_on_and_its_gates_decide(agent, tmp_path, monkeypatch, capsys):
    """The game pays alike whatever is played: half of the old 4 is there at once, and nothing is forgotten."""
    monkeypatch.setattr(patch, "launcher_of", lambda _: Here())
    gates = [{"recovered": 0.5, "within_steps": 0}, {"recovered": 0.9, "method": "finetune"}, {"forgotten": 0.0}]
    code, data, junit, html = checked(tmp_path, agent, steps=128, seeds=1, gates=gates)
    assert code == 1
    assert [gate["passed"] for gate in data["gates"]] == [True, False, True]
    tuned, *controls = data["methods"]
    assert tuned["method"] == "finetune(heads=by_name)"
    assert [c["method"] for c in controls] == ["scratch", "random_frozen"]
    assert (tuned["recovery_steps"], tuned["forgotten"]["mean"], tuned["final_share"]) == (None, 0, 0.5)
    assert junit.get("failures") == "1"
    assert "Learning curves" in html
    capsys.readouterr()
    assert patch.main([str(tmp_path / "check.yaml"), "--out", str(tmp_path / "run")]) == 1
    assert "all 3 stages are done already" in capsys.readouterr().out

    # The same id and keyword arguments, but other code: finished trainings are of another game.
    record = tmp_path / "run" / "builds.json"
    known = json.loads(record.read_text("utf-8"))
    source = Path(patched_env.__file__).read_bytes()
    assert known["new"]["sha256"] == hashlib.sha256(source).hexdigest()
    known["old"]["sha256"] = known["new"]["sha256"] = hashlib.sha256(source + b"#").hexdigest()
    again = [str(tmp_path / "check.yaml"), "--out", str(tmp_path / "run")]
    known["old"]["task"]["kwargs"]["pay"] = 9.0  # another old build is no change of code
    record.write_text(json.dumps(known), encoding="utf-8")
    assert patch.main(again) == 2
    assert "The code of the new build changed after trainings" in capsys.readouterr().err
    assert patch.main([*again, "--dry-run"]) == 0  # which uses no training, and neither does this:
    assert checked(tmp_path, agent)[0] == 0


def test_a_failed_training_fails_the_check_in_every_file(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(patch, "launcher_of", lambda _: Here(failing="scratch"))
    code, data, junit, html = checked(tmp_path, agent, steps=64, seeds=1, gates=[{"zero_shot": 0.5}])
    assert (code, data["passed"]) == (1, False)
    assert [gate["passed"] for gate in data["gates"]] == [True]
    (failed,) = data["failed"]
    assert "scratch" in failed["training"]
    assert "out of luck" in failed["error"]
    assert (junit.get("tests"), junit.get("failures"), junit.get("errors")) == ("2", "0", "1")
    (error,) = junit.findall("./testsuite/testcase/error")
    assert "out of luck" in error.get("message")
    assert "FAILED" in Page(html).all("main")[0][2]
    assert "Trainings that failed: 1." in html


def test_forgotten_is_of_the_same_levels(agent, tmp_path, monkeypatch):
    """The old build pays by its levels alone, so that no network forgets anything, whatever its seed."""
    monkeypatch.setattr(patch, "launcher_of", lambda _: Here())
    lucky = {"kwargs": {"pay": 1.0, "luck": 3.0}}
    code, data, *_ = checked(
        tmp_path,
        agent,
        old=lucky,
        new={"kwargs": lucky["kwargs"]},
        steps=64,
        gates=[{"forgotten": 0}],
    )
    levels = data["zero_shot"]["old"]["by_seed"]
    assert levels[0] != levels[1]
    assert data["zero_shot"]["old"]["return"]["mean"] == pytest.approx(sum(levels) / 2)
    assert data["methods"][0]["forgotten"] == {"mean": 0, "low": 0, "high": 0}
    assert code == 0


def test_a_score_that_does_not_hold_says_so(agent, tmp_path):
    config = PatchConfig.model_validate({"agent": agent, **SMALL, "steps": 64, "gates": [{"recovered": 0.9}]})
    checking = prepare(config)
    curve = Curve([0, 32, 64, 96], [0, 4, 0, 4])
    monkey = {"zero_shot": {"old": {"score": None, "return": {"mean": 4.0}}}}
    result = {"method": "finetune(heads=by_name)", "missing_seeds": 0, "env_steps": 96, "hold": 3, "final_share": 1.0}
    data = {**monkey, "methods": [result]}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gates, "curves_of", lambda *_: [curve])
        (gate,) = gates.judge(checking, Store(tmp_path), data)
        assert gate["gate"].endswith("within 96 env steps")
        assert (
            gate["measured"]
            == "reached at 32 env steps, not held for 3 evaluations; the final score is 100 % of the old"
        )
        assert not gate["passed"]
        data["zero_shot"]["old"]["return"]["mean"] = 1e-12
        assert gates.judge(checking, Store(tmp_path), data)[0]["measured"] == gates.NO_SHARE
    assert check.steps_to([curve], 0.9, 4) == [None]
    assert check.steps_to([curve], 0.9, 4, 1) == [32]
    assert check.steps_to([curve], 0.9, 1e-12, 1) == [None]


def test_files_are_refused_before_anything_is_played(agent, tmp_path, capsys):
    file = tmp_path / "check.yaml"
    file.write_text(yaml.safe_dump({"agent": str(agent), **SMALL}), encoding="utf-8")
    one, below = str(tmp_path / "one"), str(file / "page")
    for options, sentence in (
        (["--json", one, "--html", one], "--json PATH would overwrite the file of --html".replace("PATH", one)),
        (["--json", str(file)], "would overwrite the check itself"),
        (["--html", str(tmp_path)], "is a folder"),
        (["--junit", below], "can't be written"),
    ):
        assert patch.main([str(file), *options]) == 2
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert "Before any training" not in printed.out
    assert patch.main([str(file), "--dry-run", "--json", str(tmp_path / "new" / "a.json")]) == 0
    assert not (tmp_path / "new").exists()


MISSPELT = {"of": "observation", "name": "sid", "is": ">", "value": 1}
LONG = {"of": "length", "is": ">", "value": 1}
TWO = [{"finetune": {"heads": "by_name"}}, {"finetune": {"heads": "by_name", "carried_learning_rate": 1e-3}}]
BAD = [
    ({"new": None}, "new=None is not allowed"),
    ({"gates": [{"zero_shot": 0.5, "forgotten": 0.1}]}, "one of zero_shot, recovered and forgotten"),
    ({"gates": [{"zero_shoot": 0.5}]}, "Did you mean 'zero_shot'"),
    ({"gates": [{"recovered": 0.5}]}, "steps 0 trains nothing"),
    ({"steps": 10, "gates": [{"recovered": 0.5, "within_steps": 20}]}, "within_steps 20 is beyond steps, 10"),
    ({"steps": 10, "gates": [{"forgotten": 0.5, "method": "ewc"}]}, "Unknown method of a gate 'ewc'"),
    ({"scenarios": [{"name": "a"}]}, "needs min or max"),
    ({"scenarios": [{"name": "a", "min": 2, "max": 1}]}, "above its max"),
    ({"scenarios": [{"name": "a", "min": 1}] * 2}, "listed twice"),
    ({"scenarios": [{"name": "a", "min": 50, "measure": LONG}]}, "numbers from 0 to 1"),
    ({"scenarios": [{"name": "a", "max": -0.1, "measure": LONG}]}, "numbers from 0 to 1"),
    ({"scenarios": [{"name": "a", "min": 0, "measure": LONG}]}, "a min above 0 or a max below 1"),
    ({"scenarios": [{"name": "a", "max": 1, "measure": LONG}]}, "a min above 0 or a max below 1"),
    ({"steps": 9, "methods": TWO, "gates": [{"forgotten": 0.5, "method": "finetune"}]}, "fits several"),
    ({"scenarios": [{"name": "a", "min": 1, "measure": {"of": "info", "is": ">", "value": 1}}]}, "says its name"),
    ({"scenarios": [{"name": "a", "min": 1, "measure": MISSPELT}]}, "Did you mean 'side'"),
    ({"scenarios": [{"name": "a", "on": "old", "kwargs": {"wide": True}, "min": 1}]}, "scenario 'a': schema of"),
    ({"agent": "nowhere"}, "no checkpoint at nowhere"),
    ({"new": {"id": "Graft/Dodge-v0"}}, "shares nothing with the source"),
    ({"methods": ["finetun"]}, "Did you mean 'finetune'"),
    ({"backend": "sb4"}, "Did you mean 'sb3'"),
    ({"algorithm": "ppoo"}, "Did you mean 'ppo'"),
    ({"new": {"id": "Graft/Dodg-v0"}}, "Did you mean 'Graft/Dodge-v0'"),
    ({"old": {"kwargs": {"pai": 2}}}, "Did you mean 'pay'"),
]


@pytest.mark.parametrize(("keys", "sentence"), BAD)
def test_bad_files_end_with_2_and_a_sentence(keys, sentence, agent, tmp_path, capsys):
    file = tmp_path / "check.yaml"
    file.write_text(yaml.safe_dump({"agent": str(agent), **SMALL, **keys}), encoding="utf-8")
    assert patch.main([str(file), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_the_key_on_needs_no_quotes(tmp_path):
    file = tmp_path / "my check!.yaml"
    file.write_text("{agent: a, new: B-v0, scenarios: [{name: a, on: old, min: 1}]}")
    config = load_patch(file)
    assert (config.name, config.scenarios[0].on, config.new.id) == ("my-check-", "old", "B-v0")
    with pytest.raises(GraftError, match="no file"):
        load_patch(tmp_path / "none.yaml")


def test_the_page_has_valid_files_and_all_keys(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "patch.md").read_text("utf-8")
    whole, scenarios, pipeline = re.findall(r"^```yml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    file = tmp_path / "check.yaml"
    file.write_text(whole)
    assert set(PatchConfig.model_fields) - set(yaml.safe_load(whole)) <= {"name", "algorithm", "backend", "evaluation"}
    assert load_patch(file).scenarios[0].seed == 7
    file.write_text(f"agent: a\nnew: b\n{scenarios}")
    assert [str(s.measure) for s in load_patch(file).scenarios] == [
        "info in_fire == 0 always",
        "None",
        "observation distance < 0.1 at the end",
    ]
    assert "graft patch check.yaml --junit patch.xml" in pipeline
    yaml.safe_load(pipeline)


PATCHES = {
    "hazards": ("Graft/Gather-v0", {"hazard_density": 0.12}, "sb3"),
    "slip": ("Graft/Dodge-v0", {"slip": 0.4}, "sb3"),
    "rllib": ("Graft/Dodge-v0", {"fall_rate": 0.2}, "rllib"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PATCHES)
def test_built_in_games(name, tmp_path):
    """By the real launcher; a score is on the game's scale, and an unchanged build has all of the old one."""
    task, changed, backend = PATCHES[name]
    source = Task(task, {"view": "planes"})
    network = small_network(schemas(source))
    Checkpoint.of(network, source).save(tmp_path / "agent")
    keys = {"steps": 256, "seeds": 1, "methods": ["finetune"], "evaluation": {"every": 128, "episodes": 8}}
    keys["backend"] = backend
    code, data, *_ = checked(tmp_path, tmp_path / "agent", new={"kwargs": changed}, **keys)
    assert code == 0
    assert data["scored"]
    assert data["tasks"]["new"]["kwargs"] == {"view": "planes", **changed}
    assert [m["seeds"] for m in data["methods"]] == [1, 1, 1]
    (tmp_path / "same").mkdir()
    same = checked(tmp_path / "same", tmp_path / "agent", new={"kwargs": {}}, gates=[{"zero_shot": 1}])
    assert same[0] == 0
    assert same[1]["zero_shot"]["share"]["mean"] == 1


@pytest.mark.slow
def test_a_build_that_can_be_learned_is_recovered(agent, tmp_path):
    """Where the action decides, an untrained agent is brought to the old score, and its new action is learned."""
    new = {**PATCHED, "kwargs": {"pay": 0.0, "right": 1.2, "wide": True}}
    keys = {"steps": 6000, "algorithm": {"name": "ppo", "num_envs": 8, "num_steps": 16, "minibatch": 64}}
    keys |= {"evaluation": {"every": 500, "episodes": 32, "num_envs": 8}}
    gates = [{"zero_shot": 0.95}, {"recovered": 0.95, "within_steps": 6000}, {"forgotten": 0.01}]
    keys["methods"] = [{"finetune": {"heads": "by_name", "carried_learning_rate": 2e-3}}]  # as scratch learns
    code, data, *_ = checked(tmp_path, agent, new=new, gates=gates, **keys)
    assert [gate["passed"] for gate in data["gates"]] == [False, True, True]
    assert code == 1
    assert 0 < data["methods"][0]["recovery_steps"] <= 6000
    assert data["methods"][0]["recovery_seconds"] > 0
