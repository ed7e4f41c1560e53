"""Inspecting checkpoints: families, hashes, differences and licences are those of the files."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from support.tiny_experiment import write_config
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments import inspect
from graft.experiments.config.experiment import load_config
from graft.experiments.plan.pairs import expand
from graft.experiments.report.inspection import changes, family_tree
from graft.experiments.stages.run_stage import run_stage
from graft.experiments.store.lineage import Member
from graft.experiments.store.records import Store

TASK = Task("Graft/Dodge-v0")
OWNED = {"sources": [{"id": "Graft/Dodge-v0", "licence": "CC-BY-4.0"}], "methods": ["ewc"], "seeds": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose EWC transfer has a consolidation and a pretraining above it, and its stages by kind."""
    place = tmp_path_factory.mktemp("run")
    config = load_config(str(write_config(place, **OWNED)))
    store = Store(place / "out")
    store.open(config)
    graph = expand(config)
    ewc = next(c for c in graph.comparisons if c.source)
    stages = {graph.stages[i].kind: graph.stages[i] for i in (ewc.pretrain[0], ewc.consolidated[0], ewc.stages[0])}
    for stage in stages.values():
        run_stage(stage, store, lambda *_: None)
    return store, stages


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that may be damaged."""
    shutil.copytree(run[0].out, tmp_path / "out")
    return Store(tmp_path / "out"), run[1]


def shown(capsys, *words):
    """Exit code, output and errors, whose lines are not folded."""
    code = inspect.main(list(map(str, words)))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_checkpoint_names_its_family_from_the_root(run, capsys):
    store, stages = run
    code, out, _ = shown(capsys, store.folder(stages["transfer"].id))
    lines = out[out.index("from its root") :].splitlines()[1:]
    heads = [line for line in lines if "──" in line]
    assert [next(k for k in ("pretrain", "consolidate", "ewc") if k in line) for line in heads] == [
        "pretrain",
        "consolidate",
        "ewc",
    ]
    checkpoint = store.checkpoint(stages["transfer"].id)
    assert code == 0
    for fact in (checkpoint.id, "CC-BY-4.0", "ewc", "256", checkpoint.task.id):
        assert str(fact) in out


def test_an_agent_that_was_copied_elsewhere_finds_its_ancestors_where_it_is_told(run, tmp_path, capsys):
    store, stages = run
    shutil.copytree(store.folder(stages["transfer"].id) / "checkpoint", tmp_path / "agent")
    assert shown(capsys, tmp_path / "agent")[1].count("not found") == 2
    code, out, _ = shown(capsys, tmp_path / "agent", "--verify")
    assert (code, out.count("not checked")) == (1, 2)
    code, out, _ = shown(capsys, tmp_path / "agent", "--verify", "--search", store.out)
    assert (code, out.count("all files are as they")) == (0, 3)


def test_a_run_is_a_tree(run, capsys):
    store, _ = run
    code, out, _ = shown(capsys, store.out, "--verify")
    depths = [line.index("──") for line in out.splitlines() if "──" in line]
    assert code == 0
    assert depths == sorted(depths)
    assert len(set(depths)) == 3


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint/manifest.json", "stage.json", "."])
def test_a_missing_file_is_named(copied, capsys, name):
    store, stages = copied
    path = store.folder(stages["pretrain"].id) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, out, _ = shown(capsys, store.out, "--verify")
    assert code == 1
    assert "missing" in out or "was not found" in out


def test_a_record_that_says_something_else_than_the_manifest_is_noticed(copied, capsys):
    store, stages = copied
    path = store.folder(stages["pretrain"].id) / "stage.json"
    path.write_text(path.read_text().replace('"env_steps": 256', '"env_steps": 9999'))
    code, out, _ = shown(capsys, store.out, "--verify")
    assert (code, out.count("something else than its manifest")) == (1, 1)


@pytest.mark.parametrize("record", [{"evaluation": {}}, {"versions": []}, {"stage": [1]}, {"env_steps": "many"}])
def test_a_strangers_record_is_no_traceback(tmp_path, capsys, record):
    Checkpoint.of(small_network(schemas(TASK)), TASK, record=record).save(tmp_path / "agent")
    code, _, said = shown(capsys, tmp_path / "agent")
    assert code == 2
    assert "manifest.json: record." in said


def test_a_strangers_lineage_may_be_long(tmp_path, capsys):
    lineage = tuple(f"{i:064x}" for i in range(1500))
    Checkpoint.of(small_network(schemas(TASK)), TASK, lineage=lineage).save(tmp_path / "agent")
    code, out, _ = shown(capsys, tmp_path / "agent")
    assert (code, out.count("not found")) == (0, 1500)


def test_a_long_chain_is_drawn():
    chain = [Member(str(i), manifest={"lineage": [str(i - 1)], "task": TASK.to_json()}) for i in range(3000)]
    branch, depth = family_tree(chain, {}), 0
    while branch.children:
        (branch,), depth = branch.children, depth + 1
    assert depth == 3000


def test_a_strangers_words_do_not_reach_the_terminal_as_commands(tmp_path, capsys):
    words = "\x1b[2J[red]bold"
    Checkpoint.of(small_network(schemas(TASK)), TASK, record={"transplant": words}).save(tmp_path / "agent")
    assert "?[2J[red]bold" in shown(capsys, tmp_path / "agent")[1]


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "../metrics.jsonl", "../stage.json"])
def test_a_damaged_file_is_named(copied, capsys, name):
    store, stages = copied
    path = store.folder(stages["pretrain"].id) / "checkpoint" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    code, out, _ = shown(capsys, store.out, "--verify")
    assert code == 1
    assert sum("altered" in line.split("): ")[-1] and path.name in line for line in out.splitlines()) == 1


def test_differences_are_those_of_the_tensors(tmp_path, capsys):
    network = small_network(schemas(TASK))
    Checkpoint.of(network, TASK).save(tmp_path / "a")
    with torch.no_grad():
        network.policy.out.weight.mul_(-3)
    Checkpoint.of(network, Task(TASK.id, {"slip": 0.3})).save(tmp_path / "b")
    a, b = Checkpoint.load(tmp_path / "a"), Checkpoint.load(tmp_path / "b")
    found = {change.tensor: change for change in changes(a.tensors, b.tensors)}
    moved = found.pop("policy.out.weight")
    assert moved.relative == pytest.approx(4)
    assert moved.cosine == pytest.approx(-1)
    assert {change.relative for change in found.values()} == {0.0}
    code, out, _ = shown(capsys, tmp_path / "a", "--diff", tmp_path / "b")
    assert code == 0
    assert "task.kwargs.slip: None → 0.3" in out


def test_tensors_of_one_side_only_and_zeros_have_no_ratio():
    ones = torch.ones(2)
    gone, zero, other = changes({"gone": ones, "other": ones, "zero": 0 * ones}, {"other": torch.ones(3), "zero": ones})
    assert gone == ("gone", "2 → -", None, None)
    assert zero.tensor == "other"
    assert (zero.shapes, zero.relative) == ("2 → 3", None)
    assert (other.relative, other.cosine) == (math.inf, 0.0)


def test_what_is_no_checkpoint_is_said(tmp_path, capsys, run):
    assert shown(capsys, tmp_path / "none")[0] == 2
    (tmp_path / "stages").mkdir()
    assert "No stage in" in shown(capsys, tmp_path)[2]
    assert "is a run" in shown(capsys, run[0].out, "--diff", run[0].out)[2]


def test_licences_are_carried_on_and_forbid(tmp_path, run):
    store, stages = run
    assert {store.checkpoint(stage.id).record["licence"] for stage in stages.values()} == {"CC-BY-4.0"}

    def graph(licence, *overrides, **changes):
        source = {"checkpoint": str(folder)} | ({"licence": licence} if licence else {})
        config = write_config(tmp_path, **{**OWNED, "sources": [source], "network": None, **changes})
        return expand(load_config(str(config), overrides))

    folder = tmp_path / "closed"
    Checkpoint.of(small_network(schemas(TASK)), TASK, record={"licence": "CC-BY-NC-ND-4.0"}).save(folder)
    for said in None, "MIT":
        with pytest.raises(GraftError, match=r"CC-BY-NC-ND-4\.0, which allows no derivatives"):
            graph(said)
    with pytest.raises(GraftError, match=r"cc-by-nd-4\.0, which allows no derivatives"):
        graph("cc-by-nd-4.0")
    stages = graph(None, "override_licence=true").stages.values()
    assert {(s.licence, s.licence_overridden) for s in stages if s.source} == {("CC-BY-NC-ND-4.0", True)}
    assert {(s.licence, s.licence_overridden) for s in stages if not s.source} == {(None, False)}
    ids = {s.id for s in stages}
    stages = graph(None, "licence=Apache-2.0", "override_licence=true").stages.values()
    assert {(s.licence, s.licence_overridden) for s in stages if s.source} == {("Apache-2.0", True)}
    assert {s.id for s in stages} == ids, "a licence changes no result"
    with pytest.raises(GraftError, match="licence"):
        graph("by the moon's light?")
    child = {"licence": "Apache-2.0", "licence_overridden": True}
    Checkpoint.of(small_network(schemas(TASK)), TASK, record=child).save(folder)
    with pytest.raises(GraftError, match="a licence of an ancestor, which allows no derivatives"):
        graph(None)


def test_an_imported_agent_has_a_file_as_its_root(tmp_path, capsys):
    notes = {"file": "ppo.zip", "format": "sb3", "sha256": "ab" * 32, "algorithm": "PPO", "origin": None}
    made = Checkpoint.of(small_network(schemas(TASK)), TASK, lineage=("ab" * 32,), record={"import": notes})
    made.save(tmp_path / "agent")
    code, out, _ = shown(capsys, tmp_path / "agent", "--verify")
    assert code == 0
    assert f"ppo.zip, sb3, PPO, sha256 {'ab' * 32}" in out
    assert "the file ppo.zip" in out
    assert "not found" not in out
