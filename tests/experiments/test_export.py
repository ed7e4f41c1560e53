"""The command: what it writes, that it writes nothing where something is wrong, and that stale files are noticed."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.export_cases import varied
from support.tiny_tasks import TinyTaskAdapter, small_network

from graft.agents.checkpoints.checkpoint import Checkpoint, sealed
from graft.agents.export import exporter, recording
from graft.agents.export.contract import digest
from graft.agents.export.exporter import EXPORTERS, Agent
from graft.agents.export.formats.hub import Score, _saved, _score, card
from graft.agents.export.onnx_file import runner
from graft.agents.export.recording import record_states
from graft.command import FAILED
from graft.envs.core.task import Task
from graft.envs.factory import ADAPTERS, make, schemas
from graft.errors import GraftError
from graft.experiments import export
from graft.experiments.playback import distil, frames, replay
from graft.experiments.playback import export as playback
from graft.experiments.playback.frames import EpisodeEnd, PlaybackStep

TASK = Task("tiny/Match-v0", {"kind": "planes"})
FEW = ["--states", "40"]  # which `made_here` allows, for speed


@pytest.fixture(scope="module", autouse=True)
def made_here():
    """Lets `envs.make` make the tasks ``tiny/...``, and exports be checked in a few states."""
    list(ADAPTERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADAPTERS._entries, "tiny", TinyTaskAdapter())
        patch.setattr(playback, "FEWEST", 40)
        yield


def agent_of(task, folder, seed=0):
    """The folder of a stage with an agent of random weights."""
    Checkpoint.of(varied(small_network(schemas(task)), seed), task).save(folder / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def agent(tmp_path_factory, made_here):
    return agent_of(TASK, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def written(agent, tmp_path_factory):
    """An export as ONNX, with what stands beside it."""
    folder = tmp_path_factory.mktemp("out")
    assert export.main([str(agent), *FEW, "--to", "onnx", "--out", str(folder / "npc.onnx")]) == 0
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def copy(written, tmp_path):
    for name, data in files(written).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def verified(folder, *words):
    return export.main(["--verify", str(folder / "npc.onnx"), *map(str, words)])


def test_the_contract_says_what_the_model_is(agent, written):
    contract = json.loads((written / "npc.onnx.contract.json").read_text())
    network = Checkpoint.load(agent / "checkpoint").build()
    seen = network.schemas.observation
    assert [port["name"] for port in contract["inputs"]] == ["obs"]
    assert contract["inputs"][0]["names"] == list(seen.names)
    assert contract["inputs"][0]["shape"] == ["batch", *seen.shape]
    assert contract["inputs"][0]["dtype"] == seen.dtype
    assert [port["name"] for port in contract["outputs"]] == ["action", "logits"]
    assert contract["actions"]["names"] == list(network.schemas.action.names)
    assert contract["parity"]["states"] == 40
    assert contract["parity"]["source"] == "recorded by playing tiny/Match(kind=planes)"
    assert contract["latency"]["median_us"] > 0
    assert contract["opset"] == 15
    assert contract["checkpoint"]["id"] == Checkpoint.load(agent / "checkpoint").id
    assert set(files(written)) == {"npc.onnx", "npc.onnx.contract.json", "npc.onnx.vectors.json"}


def test_vectors_are_what_evaluation_plays(agent, written):
    vectors = json.loads((written / "npc.onnx.vectors.json").read_text())
    network = Checkpoint.load(agent / "checkpoint").build().eval()
    obs = np.array(vectors["inputs"]["obs"], network.schemas.observation.dtype)
    assert len(obs) == 32
    assert network.act(obs, None, deterministic=True).tolist() == vectors["outputs"]["action"]


def test_what_belongs_together_is_verified(agent, copy, capsys):
    assert verified(copy, agent) == 0
    assert "32 test vectors replayed" in capsys.readouterr().out


def other_model(path):
    """The same weights, but for one bias, under the same names."""
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name.endswith("policy.out.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 1
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return model.SerializeToString()


def changed(kind, change):
    """Damages the bytes of one file."""

    def damage(folder):
        path = folder / f"npc.onnx{kind}"
        path.write_bytes(change(path.read_bytes()))

    return damage


def resealed(change):
    """A contract that was changed by somebody who computed its id again."""

    def damage(folder):
        path = folder / "npc.onnx.contract.json"
        found = json.loads(path.read_text())
        change(found)
        path.write_bytes(sealed(found)[1])

    return damage


def replace_model(folder):
    (folder / "npc.onnx").write_bytes(other_model(folder / "npc.onnx"))


def replace_model_and_hash(folder):
    """The contract's hash fits the other model; its test vectors do not."""
    replace_model(folder)
    sha256 = digest((folder / "npc.onnx").read_bytes())
    resealed(lambda found: found["model"].update(sha256=sha256))(folder)


def widen(found):
    found["inputs"][0]["shape"][1] += 1


CONTRACT, VECTORS = ".contract.json", ".vectors.json"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed("", lambda data: data[:-100]), "is not the model of its contract"),
        (replace_model, "is not the model of its contract"),
        (changed(CONTRACT, lambda data: data.replace(b'"logits"', b'"scores"', 1)), "was truncated or edited"),
        (changed(CONTRACT, lambda data: data[:500]), "was truncated or edited"),
        (lambda folder: (folder / f"npc.onnx{CONTRACT}").unlink(), "is missing or cannot be read"),
        (changed(VECTORS, lambda data: data.replace(b"0", b"1", 1)), "is not the file of test vectors"),
        (replace_model_and_hash, "gives another action than its test vectors"),
        (resealed(widen), "has the inputs"),
        (resealed(lambda found: found.update(opset=9)), "has opset 15, and its contract says 9"),
        (
            resealed(lambda found: found.update(constants={"memory_size": [64.0]})),
            "has the constants {}, and its contract {'memory_size': [64.0]}",
        ),
        (resealed(lambda found: found.pop("model")), "lacks model; export again"),
        (resealed(lambda found: found.update(contract=2)), "has version 2; this version of Graft reads 1"),
    ],
)
def test_stale_truncated_and_edited_files_are_noticed(copy, damage, said, capsys):
    damage(copy)
    assert verified(copy) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("part", ["actions", "inputs", "sampling"])
def test_names_that_are_not_the_checkpoints_are_noticed(agent, copy, part, capsys):
    def change(found):
        if part == "sampling":
            found[part] = "none"
        else:
            (found[part] if part == "actions" else found[part][0])["names"].reverse()

    resealed(change)(copy)
    assert verified(copy) == 0  # the file alone cannot say
    assert verified(copy, agent) == 2
    assert f"has other {part} than the checkpoint that it names" in capsys.readouterr().err


def test_a_model_of_another_checkpoint_is_noticed(copy, tmp_path, capsys):
    assert verified(copy, agent_of(TASK, tmp_path / "other", seed=1)) == 2
    assert "export that one again" in capsys.readouterr().err


def test_nothing_is_written_where_the_model_differs(agent, tmp_path, capsys, monkeypatch):
    honest = exporter.to_onnx

    def altered(interface):
        path = tmp_path / "altered"
        path.write_bytes(honest(interface))
        data = other_model(path)
        path.unlink()
        return data

    monkeypatch.setattr(exporter, "to_onnx", altered)
    out = tmp_path / "npc.onnx"
    assert export.main([str(agent), *FEW, "--to", "onnx", "--out", str(out)]) == 2
    assert "differs from the network: in state 0 logits[0] is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onyx", "--out", "a.onnx"], "Did you mean 'onnx'?"),
        (["--to", "onnx", "--out", "a.pt"], "ends in .onnx"),
        (["--to", "onnx", "--out", "nowhere/a.onnx"], "There is no folder nowhere"),
        (["--to", "hub", "--out", "."], "has no name of its own"),
        (["--to", "hub", "--out", "/", "--force"], "has no name of its own"),
        (["--verify", "a.onnx", "--to", "onnx", "--out", "b.onnx"], "give one of both"),
        (["--to", "onnx"], "Give a checkpoint, --to FORMAT and --out PATH"),
        (["--to", "onnx", "--out", "a.onnx", "--states", "39"], "at least 40 is needed"),
        (["--to", "rsl_rl", "--out", "a.onnx", *FEW], "rsl_rl plays box actions"),
        (["--to", "rsl_rl", "--out", "a.onnx", "--distill-to", "mlp:8"], "rsl_rl plays box actions"),
        (["--to", "unity", "--out", "a.onnx", *FEW, "--quantise", "int8"], "leave --quantise out"),
        (["--to", "sb3", "--out", "a.zip", "--quantise", "int8"], "sb3 is none; leave it out"),
    ],
)
def test_bad_input_is_a_sentence(agent, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export.main([str(agent), *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == "", "nothing was distilled first"
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_checked_in_a_thousand_states(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(playback, "FEWEST", recording.FEWEST)
    with pytest.raises(GraftError, match="--states 999 is not allowed; at least 1000"):
        playback.export_agent(agent, "onnx", tmp_path / "a.onnx", states=999)


def test_what_is_there_is_kept_unless_forced(agent, copy, capsys):
    before = files(copy)
    words = [str(agent), *FEW, "--to", "onnx", "--out", str(copy / "npc.onnx")]
    assert export.main(words) == 2
    assert "exists; choose another name, or give --force" in capsys.readouterr().err
    assert files(copy) == before
    assert export.main([*words, "--force"]) == 0
    assert json.loads((copy / "npc.onnx.contract.json").read_text())["parity"]["states"] == 40


def test_a_task_that_is_not_installed_is_checked_on_drawn_states(tmp_path):
    network = varied(small_network(schemas(TASK)))
    Checkpoint.of(network, Task("tiny/Elsewhere-v0")).save(tmp_path / "agent")
    out = tmp_path / "a.pt"
    assert export.main([str(tmp_path / "agent"), *FEW, "--to", "torchscript", "--out", str(out)]) == 0
    contract = json.loads((tmp_path / "a.pt.contract.json").read_text())
    assert contract["parity"]["source"].startswith("drawn from the bounds of the schema, as the task cannot be made")
    assert export.main(["--verify", str(out)]) == 0
    out.write_bytes(out.read_bytes()[:-9])
    assert export.main(["--verify", str(out)]) == 2


@pytest.mark.slow
def test_the_hub_folder_is_a_card_with_what_it_says(tmp_path, monkeypatch):
    agent = agent_of(Task("Graft/Gather-v0", {"view": "ego"}), tmp_path / "stage")
    monkeypatch.setattr("graft.experiments.playback.replay.find_spec", lambda _: None)
    monkeypatch.setattr("graft.experiments.playback.replay.FRAMES", 5)
    out = tmp_path / "gather-agent"
    words = [str(agent), *FEW, "--to", "hub", "--out", str(out), "--episodes", "4"]
    assert export.main(words) == 0
    text = (out / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "graft"
    assert {"reinforcement-learning", "deep-reinforcement-learning", "Graft/Gather-v0"} <= set(front["tags"])
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert metric["type"] == "mean_reward"
    assert re.fullmatch(r"-?\d+\.\d\d \+/- \d+\.\d\d", metric["value"])
    kept = Checkpoint.load(out / "checkpoint")
    assert kept.id == Checkpoint.load(agent / "checkpoint").id
    weights = load_file(out / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in kept.tensors.items())
    assert (out / "replay.gif").read_bytes().startswith(b"GIF")
    assert export.main(["--verify", str(out / "model.onnx")]) == 0
    assert export.main(words) == 2  # it is there


def test_the_score_of_the_card_is_that_of_evaluation(agent):
    checkpoint = Checkpoint.load(agent / "checkpoint")
    network, returns = checkpoint.build().eval(), []
    for k in range(2):
        env = make(TASK, 1, k)
        obs, total, done = env.reset(seed=k)[0], 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(network.act(obs, None, deterministic=True).numpy())
            total, done = total + float(reward[0]), bool(terminated[0] or truncated[0])
        returns.append(total)
    # Its environments are made with the seeds 0 and 1, of one batch.
    agent = Agent(checkpoint, network, None, "0", episodes=2)
    assert _score(agent) == (f"{np.mean(returns):.2f} +/- {np.std(returns):.2f}", 2)


def test_the_card_counts_the_episodes_that_were_played(agent, tmp_path, monkeypatch, capsys):
    """Eight environments play the same number each: 24 for 20."""
    monkeypatch.setattr(playback, "write_replay", lambda *_: None)
    out = tmp_path / "agent"
    assert export.main([str(agent), *FEW, "--to", "hub", "--out", str(out), "--episodes", "20"]) == 0
    assert "in 24 episodes, greedy" in capsys.readouterr().out
    assert "in 24 episodes of greedy play" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def hub(agent, tmp_path_factory):
    """A folder for the Hub, without a replay."""
    out = tmp_path_factory.mktemp("hub") / "agent"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playback, "write_replay", lambda *_: None)
        assert export.main([str(agent), *FEW, "--to", "hub", "--out", str(out), "--episodes", "2"]) == 0
    return out


def test_a_folder_that_is_no_export_is_never_replaced(agent, hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(playback, "write_replay", lambda *_: None)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    words = [str(agent), *FEW, "--to", "hub", "--episodes", "2", "--force", "--out"]
    assert export.main([*words, str(other)]) == 2
    assert "holds no model.onnx.contract.json, so it is no earlier export" in capsys.readouterr().err
    assert files(other) == {"mine.txt": b"x"}
    with pytest.raises(GraftError, match="no earlier export"):
        exporter.write_folder(other, "model", lambda folder: None)
    assert export.main([*words, str(hub)]) == 0
    assert [path.name for path in hub.parent.iterdir()] == ["agent"]


def test_a_folder_stays_where_filling_another_fails(tmp_path):
    old = tmp_path / "agent"
    old.mkdir()
    (old / "marker").write_text("old")

    def fill(folder):
        (folder / "marker").write_text("new")
        raise OSError(errno.EACCES, "no")

    with pytest.raises(GraftError, match="cannot be written"):
        exporter.write_folder(old, "marker", fill)
    assert files(old) == {"marker": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_files_are_all_written_or_none(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"old")
    two.mkdir()
    with pytest.raises(GraftError, match="is a folder"):
        exporter.write_together({one: b"new", two: b"new"})
    two.rmdir()
    assert files(tmp_path) == {"a": b"old"}
    exporter.write_together({one: b"new", two: b"new"})
    assert files(tmp_path) == {"a": b"new", "b": b"new"}


def test_a_full_disk_is_no_bad_input(agent, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(exporter, "write_durably", full)
    assert export.main([str(agent), *FEW, "--to", "torchscript", "--out", str(tmp_path / "a.pt")]) == FAILED


def test_models_of_one_stem_have_their_own_contracts(agent, copy, capsys):
    assert export.main([str(agent), *FEW, "--to", "torchscript", "--out", str(copy / "npc.pt")]) == 0
    assert verified(copy, agent) == 0
    assert export.main([str(agent), "--verify", str(copy / "npc.pt")]) == 0
    path = copy / "npc.pt.contract.json"  # whose shapes are those of its vectors
    found = json.loads(path.read_text())
    widen(found)
    path.write_bytes(sealed(found)[1])
    assert export.main(["--verify", str(copy / "npc.pt")]) == 2
    assert "says that obs has the shape" in capsys.readouterr().err


def test_what_is_drawn_and_fails_leaves_no_replay(agent, tmp_path, monkeypatch):
    checkpoint = Checkpoint.load(agent / "checkpoint")

    def failing(*_):
        raise GraftError("Its render fails.")
        yield

    monkeypatch.setattr(frames, "make", lambda *words, render_mode=None, **more: make(*words, **more))
    monkeypatch.setattr(frames, "play", failing)
    assert replay.write_replay(checkpoint, checkpoint.build().eval(), 0, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_has_even_sides_and_ends_with_the_episodes(agent, tmp_path, monkeypatch):
    checkpoint, written = Checkpoint.load(agent / "checkpoint"), []
    steps = (PlaybackStep(np.full((5, 7, 3), n, np.uint8), EpisodeEnd(0.0, 1)) for n in range(9))
    monkeypatch.setattr(frames, "make", lambda *words, render_mode=None, **more: make(*words, **more))
    monkeypatch.setattr(frames, "play", lambda *_: steps)
    monkeypatch.setattr(replay, "find_spec", lambda _: object())
    monkeypatch.setattr("imageio.v2.mimwrite", lambda path, frames, **_: written.append((path, frames)))
    assert replay.write_replay(checkpoint, checkpoint.build().eval(), 0, tmp_path) == "replay.mp4"
    (path, pictures), *others = written
    assert others == []
    assert path == tmp_path / "replay.mp4"
    assert [frame.shape for frame in pictures] == [(6, 8, 3)] * 3
    assert [int(frame[-1, -1, 0]) for frame in pictures] == [0, 1, 2]


def test_a_task_that_refuses_its_keywords_is_no_missing_task(tmp_path, capsys):
    network = varied(small_network(schemas(TASK)))
    Checkpoint.of(network, Task("Graft/Dodge-v0", {"slipp": 0.3})).save(tmp_path / "agent")
    assert export.main([str(tmp_path / "agent"), *FEW, "--to", "torchscript", "--out", str(tmp_path / "a.pt")]) == 2
    assert "slipp" in capsys.readouterr().err


def test_a_fault_in_play_is_said(monkeypatch):
    network = varied(small_network(schemas(TASK))).eval()

    class Broken:
        def __getattr__(self, name):
            return getattr(self.env, name)

        def __init__(self, env):
            self.env = env

        def step(self, actions):
            raise GraftError("It broke.")

    monkeypatch.setattr(recording, "make", lambda *words, **more: Broken(make(*words, **more)))
    with pytest.raises(GraftError, match="It broke"):
        record_states(network, TASK, 10, seed=0)


@pytest.mark.parametrize("task", [TASK, Task("tiny/Elsewhere-v0")], ids=["played", "drawn"])
def test_an_agent_without_finite_outputs_is_refused(task, tmp_path, capsys):
    network = varied(small_network(schemas(TASK)))
    with torch.no_grad():
        network.policy.out.bias[0] = float("nan")
    Checkpoint.of(network, task).save(tmp_path / "agent")
    assert export.main([str(tmp_path / "agent"), *FEW, "--to", "torchscript", "--out", str(tmp_path / "a.pt")]) == 2
    assert "outputs are not finite" in capsys.readouterr().err


def test_the_card_says_where_the_agent_is_from_and_its_licence(agent):
    own = Checkpoint.load(agent / "checkpoint")
    network = own.build().eval()

    def text(**changes):
        return card(Agent(replace(own, **changes), network, None, "0"), Score("1.00 +/- 0.00", 8), None)

    assert "origin not recorded. Licence: unspecified" in text()
    assert "license" not in text()
    assert "trained from scratch" in text(record={"stage": {"algorithm": {"name": "ppo"}}})
    assert "made from abc" in text(lineage=("abc",))
    assert "\nlicense: apache-2.0\n" in text(record={"licence": "Apache-2.0"})
    assert "\nlicense: gpl-3.0\n" in text(record={"licence": "GPL-3.0-only"})
    assert "\nlicense: other\nlicense_name: MIT OR CC-BY-4.0\n" in text(record={"licence": "MIT OR CC-BY-4.0"})


def test_the_hub_folder_of_an_older_checkpoint_agrees_with_itself(agent, tmp_path):
    old = replace(Checkpoint.load(agent / "checkpoint"), id="0" * 64)  # as one whose manifest had fewer entries
    saved = _saved(old, tmp_path / "checkpoint")
    found = Checkpoint.load(tmp_path / "checkpoint")
    assert (found.id, found.lineage) == (saved.id, saved.lineage)
    assert found.lineage[0] == old.id


def test_int8_says_what_it_keeps(agent, written, tmp_path, capsys):
    out = tmp_path / "npc.onnx"
    words = [*FEW, "--to", "onnx", "--quantise", "int8", "--out", str(out), "--episodes", "8"]
    assert export.main([str(agent), *words]) == 0
    said = capsys.readouterr().out
    assert "of the actions are the same; mean return" in said
    assert "before rounding, the same as the network" in said
    found = json.loads((tmp_path / "npc.onnx.contract.json").read_text())
    assert "parity" not in found
    assert found["parity_of_float32"]["states"] == 40
    kept = found["quantised"]
    obs = record_states(Checkpoint.load(agent / "checkpoint").build(), TASK, 40, seed=0).observations
    small, whole = (
        runner((folder / "npc.onnx").read_bytes())({"obs": obs})["action"] for folder in (tmp_path, written)
    )
    assert kept["agreement"] == (small == whole).mean()
    assert kept["episodes"] == 8
    assert verified(tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", [TASK, Task("tiny/Reach-v0")], ids=["discrete", "box"])
def test_a_distilled_network_plays_what_the_agent_plays(task, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(distil, "STATES", 512)
    monkeypatch.setattr(distil, "STEPS", 250)
    large = agent_of(task, tmp_path / "large")
    words = [str(large), *FEW, "--to", "onnx", "--distill-to", "mlp:24x16", "--episodes", "8"]
    assert export.main([*words, "--out", str(tmp_path / "npc.onnx")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "distilling to mlp:24x16: 4 rounds of 512 states and 250 updates, then 8 episodes"
    assert [line.partition(":")[0] for line in said[1:5]] == [f"round {number} of 4" for number in range(1, 5)]
    assert any(line.startswith("distilled to mlp:24x16: ") for line in said)
    found = json.loads((tmp_path / "npc.onnx.contract.json").read_text())["distilled"]
    teacher = Checkpoint.load(large / "checkpoint").build().eval()
    states = record_states(teacher, task, 400, seed=9)  # others than it has learned from
    model = onnx.load(tmp_path / "npc.onnx")
    shapes = [
        list(tensor.dims) for tensor in model.graph.initializer if "policy" in tensor.name or "block" in tensor.name
    ]
    assert {24, 16} <= {side for shape in shapes for side in shape}
    played = runner((tmp_path / "npc.onnx").read_bytes())({"obs": states.observations})["action"]
    if task is TASK:
        assert found["agreement"] > 0.9
        assert (played == states.actions).mean() == pytest.approx(found["agreement"], abs=0.06)
    else:
        spread = np.abs(states.actions - states.actions.mean(0)).mean()
        assert found["mean_difference"] < 0.3 * spread
        assert np.abs(played - states.actions).mean() == pytest.approx(found["mean_difference"], rel=0.5)
    assert export.main([str(large), "--verify", str(tmp_path / "npc.onnx")]) == 0


@pytest.mark.parametrize("word", ["64x64", "mlp:", "mlp:0", "mlp:64x", "mlp:9999", "mlp:" + "x".join("9" * 9)])
def test_layers_that_cannot_be_distilled_to_are_a_sentence(word):
    with pytest.raises(GraftError, match="up to 8 layers, each from 1 to 4096: mlp:64x64"):
        distil.widths_of(word)


def test_every_format_is_in_the_help(capsys):
    assert set(EXPORTERS) == {"onnx", "unity", "godot", "rsl_rl", "torchscript", "sb3", "hub"}
    with pytest.raises(SystemExit):
        export.main(["--help"])
    shown = capsys.readouterr().out
    for name in EXPORTERS:
        assert f"\n  {name} " in shown


def test_every_format_is_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    assert {name for name in EXPORTERS if f"| `{name}` |" not in page} == set()
