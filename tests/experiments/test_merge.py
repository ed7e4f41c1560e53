"""``graft merge``: the checkpoint that it writes, its family, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments import inspect, merge
from graft.experiments.playback.merge import _heads
from graft.experiments.store.lineage import Member

DODGE, SLIP = Task("Graft/Dodge-v0"), Task("Graft/Dodge-v0", {"slip": 0.5})


def saved(folder, parent=None, seed=0, task=DODGE, **record):
    """A checkpoint in ``folder``, its weights those of its parent and some noise."""
    network = small_network(schemas(task))
    found = Checkpoint.of(network, task, record={"licence": "MIT", **record})
    if parent is not None:
        dice = torch.Generator().manual_seed(seed)
        tensors = {n: t + 0.1 * torch.randn(t.shape, generator=dice) for n, t in parent.tensors.items()}
        found = replace(found, tensors=tensors, lineage=(parent.id, *parent.lineage))
    found.save(folder)
    return Checkpoint.load(folder)


@pytest.fixture
def place(tmp_path):
    """A base with two fine-tunes, the second by way of another."""
    base = saved(tmp_path / "base")
    saved(tmp_path / "a", base, 1)
    middle = saved(tmp_path / "middle", base, 2)
    saved(tmp_path / "b", middle, 3, SLIP, licence="CC-BY-4.0")
    return tmp_path


def merged(place, *more, agents=("a", "b")):
    words = [*(str(place / name) for name in agents), "--out", str(place / "out"), "--episodes", "32"]
    return merge.main([*words, "--search", str(place), *more])


def test_the_merged_agent_is_a_checkpoint_like_any_other(place, capsys):
    assert merged(place, "--method", "ties", "--keep", "0.5") == 0
    out = capsys.readouterr().out
    base, a, b, middle = (Checkpoint.load(place / name) for name in ("base", "a", "b", "middle"))
    found = Checkpoint.load(place / "out")
    assert found.lineage == (a.id, b.id, middle.id, base.id)
    assert found.task == DODGE
    assert found.record["licence"] == "CC-BY-4.0 AND MIT"
    about = found.record["merge"]
    assert (about["base"], about["options"]) == (base.id, {"keep": 0.5, "scale": 1.0})
    assert [parent["id"] for parent in about["parents"]] == [a.id, b.id]
    assert found.record["evaluation"] == about["scores"][str(DODGE)]["the merged agent"]
    assert set(about["scores"]) == {str(DODGE), str(SLIP)}
    for score in about["scores"][str(SLIP)].values():
        assert f"{score['return_mean']:.2f} ± {score['ci95']:.2f}" in out
    json.dumps(found.record, allow_nan=False)


def test_value_heads_are_merged_in_the_first_agents_scale_of_rewards(place):
    base, a = (Checkpoint.load(place / name) for name in ("base", "a"))
    scaled = saved(place / "scaled", base, 6, stage={"algorithm": {"reward_scale": 0.1}})
    assert merged(place, "--episodes", "0", agents=("scaled", "a")) == 0
    found = Checkpoint.load(place / "out")
    mean = (scaled.tensors["value.out.weight"] + 0.1 * a.tensors["value.out.weight"]) / 2
    torch.testing.assert_close(found.tensors["value.out.weight"], mean)
    assert found.record["stage"] == {"algorithm": {"reward_scale": 0.1}}
    saved(place / "strange", base, 7, stage={"algorithm": {"reward_scale": "x"}})
    assert merged(place, "--force", agents=("strange", "a")) == 2


@pytest.mark.parametrize("name", ["a", "base", "middle", ""])
def test_what_is_merged_is_not_replaced(place, name, capsys):
    whole = place / "b" / "manifest.json"
    if not name:  # a checkpoint in whose folder the others are
        (place / "manifest.json").write_bytes(whole.read_bytes())
    assert merged(place, "--episodes", "0", "--force", "--out", str(place / name)) == 2
    assert "would replace it" in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_a_sentence(place, capsys):
    huge = Checkpoint.load(place / "a")
    replace(huge, tensors={name: torch.full_like(t, 1e38) for name, t in huge.tensors.items()}).save(place / "huge")
    assert merged(place, agents=("huge", "b")) == 2
    assert "huge are not finite numbers" in capsys.readouterr().err


def test_of_several_last_common_ancestors_the_user_chooses(place, capsys):
    for method, child in [("average", "one"), ("ties", "two")]:
        assert merged(place, "--episodes", "0", "--method", method, "--out", str(place / method)) == 0
        saved(place / child, Checkpoint.load(place / method), 8)
    assert merged(place, agents=("one", "two")) == 2
    assert "several last common ancestors" in capsys.readouterr().err
    assert merged(place, "--episodes", "0", "--base", str(place / "a"), agents=("one", "two")) == 0


def test_inspect_shows_both_parents(place, capsys):
    assert merged(place, "--episodes", "0") == 0
    saved(place / "child", Checkpoint.load(place / "out"), 5)
    capsys.readouterr()
    assert inspect.main([str(place / "child"), "--search", str(place), "--verify"]) == 0
    out = capsys.readouterr().out
    assert out.count(": all files are as they were written") == 6
    ids = {name: Checkpoint.load(place / name).id[:12] for name in ("base", "a", "b", "middle", "out", "child")}
    lines = [line for line in out[out.index("from its root") :].splitlines() if "──" in line]
    tree = [(line.index("──") // 4, next(n for n, i in ids.items() if f"({i}, " in line)) for line in lines]
    assert tree == [(0, "base"), (1, "middle"), (2, "b"), (3, "out"), (4, "child"), (1, "a"), (2, "out")]


def tree_of(out, folders):
    """Depth and name of each line, a question mark for what was not found."""
    ids = {folder.name: Checkpoint.load(folder).id[:12] for folder in folders}
    lines = [line for line in out.splitlines() if "──" in line]
    named = [(line.index("──") // 4, next(n for n, i in ids.items() if i in line)) for line in lines]
    return [
        (depth, f"{name}?" if "not found" in line else name) for line, (depth, name) in zip(lines, named, strict=True)
    ]


def test_of_ancestors_that_are_gone_no_parent_is_made_up(place, capsys):
    assert merged(place, "--episodes", "0") == 0
    saved(place / "child", Checkpoint.load(place / "out"), 5)
    folders = [place / name for name in ("base", "a", "b", "middle", "out", "child")]
    capsys.readouterr()
    inspect.main([str(place / "out")])
    depths = [line.index("──") // 4 for line in capsys.readouterr().out.splitlines() if "──" in line]
    assert depths == [0, 0, 0, 1, 0, 1]  # base, middle, b with what was merged below it, and a with it
    inspect.main([str(place / "child")])
    found = tree_of(capsys.readouterr().out, folders)
    assert found == [(0, "base?"), (0, "middle?"), (0, "b?"), (0, "a?"), (0, "out?"), (1, "child")]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--method", "tie"], "Did you mean 'ties'"),
        (["--scale", "0.5"], "--scale is no option of average; it takes none"),
        (["--method", "task_arithmetic", "--keep", "0.5"], "it takes scale"),
        (["--method", "ties", "--keep", "0"], "in (0, 1] is needed"),
        (["--method", "ties", "--scale", "nan"], "--scale nan is not allowed"),
    ],
)
def test_options_that_do_not_fit_are_sentences(place, more, match, capsys):
    assert merged(place, *more) == 2
    assert match in capsys.readouterr().err
    assert not (place / "out").exists()


def test_what_cannot_be_merged_is_said(place, capsys):
    stranger = saved(place / "stranger", origin="elsewhere")
    saved(place / "nd", Checkpoint.load(place / "base"), 4, licence="CC-BY-ND-4.0")
    saved(place / "heads", Checkpoint.load(place / "base"), 4, stage={"method": {"name": "ewc", "heads": "fresh"}})
    for agents, more, match in [
        (("a", "a"), (), "two different agents"),
        (("a",), (), "two different agents"),
        (("base", "a"), (), "share no ancestor"),
        (("a", "nd"), (), "allows no derivatives"),
        (("a", "b"), ("--base", str(place / "nowhere")), "There is no checkpoint"),
    ]:
        assert merged(place, *more, agents=agents) == 2
        assert match in capsys.readouterr().err
    words = [str(place / "a"), str(place / "b"), "--out", str(place / "out")]
    assert merge.main(words) == 2
    assert "--search DIR says where else to look" in capsys.readouterr().err
    assert merged(place, "--base", str(place / "stranger"), "--episodes", "0") == 0
    assert "does not name the base" in capsys.readouterr().out
    assert Checkpoint.load(place / "out").record["merge"]["base"] == stranger.id
    assert merged(place, "--episodes", "0") == 2
    assert "give another folder" in capsys.readouterr().err
    assert merged(place, "--episodes", "0", "--force", "--override-licence", agents=("heads", "nd")) == 0
    assert "heads was given fresh heads" in capsys.readouterr().out
    assert Checkpoint.load(place / "out").record["licence_overridden"] is True


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "unknown"),
        ({"stage": {"method": ["ewc"]}}, "unknown"),
        ({"stage": {"method": {"name": "ewc", "heads": "fresh"}}}, "fresh"),
        ({"stage": {"method": {"name": "ewc", "heads": "by_name"}}}, "carried"),
        ({"stage": {"method": {"name": "ewc", "heads": "auto"}}}, "unknown"),
        ({"stage": {"method": {"name": "ewc", "heads": "auto"}}, "starts": {"taken": "by_name"}}, "carried"),
        ({"stage": {"method": {"name": "ewc", "heads": "auto"}}, "starts": {"taken": "fresh"}}, "fresh"),
        ({"stage": {"method": {"name": "chain", "heads": "auto", "methods": [{"heads": "fresh"}]}}}, "fresh"),
        ({"stage": {"method": {"name": "chain", "heads": "auto", "methods": [{"heads": "by_name"}]}}}, "carried"),
        ({"stage": {"kind": "consolidate", "method": {"name": "ewc", "heads": "auto"}}}, "carried"),
    ],
)
def test_whether_heads_are_the_bases_is_what_the_record_says(record, said):
    assert _heads(Member("", manifest={"record": record})) == said
