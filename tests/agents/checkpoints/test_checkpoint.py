"""Round trips, damage of every kind, and a kill at every step of a save."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from support.tiny_tasks import assert_same, box, discrete, observations, planes, scrambled, small_network, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.files import replace_file
from graft.agents.networks.policy_network import NetworkConfig
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError

TASK = Task("tiny/Thing-v0", {"slip": 0.1, "deep": {"list": [1, None, "ü"]}})
PARTS = {
    "method": {"fisher": torch.arange(6).view(3, 2) / 7, "count": torch.tensor(7), "mask": torch.tensor([True, False])},
    "normaliser": {"mean": torch.tensor([1e-300, math.pi], dtype=torch.float64)},
}


def checkpoint(seed: int = 0) -> Checkpoint:
    schemas = Schemas(planes("abc", 4, 3, [["deadly"], ["self", "solid"], []]), discrete("x", "y"))
    network = small_network(schemas, seed)
    record = {"seed": seed, "score": 0.1 + 0.2, "nested": {"n": [1, 2.5, None, True, "ü"]}}
    return Checkpoint.of(network, TASK, parts=PARTS, lineage=("b" * 64, "a" * 64), record=record)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint().save(tmp_path / "ckpt")
    return tmp_path / "ckpt"


def test_round_trip_is_bit_equal(saved):
    before, after = checkpoint(), Checkpoint.load(saved)
    assert_same(dict(after.tensors), dict(before.tensors))
    assert after.parts.keys() == before.parts.keys()
    for name, part in before.parts.items():
        assert_same(dict(after.parts[name]), dict(part))
        assert [t.dtype for t in after.parts[name].values()] == [part[n].dtype for n in after.parts[name]]
    for part in ("network", "schemas", "task", "lineage", "record", "stems"):
        assert getattr(after, part) == getattr(before, part)


@pytest.mark.parametrize(
    "schemas",
    [
        Schemas(vector(["a"]), box(["x", "y"], -0.5, 2.0)),
        Schemas(
            ObservationSchema("vector", ("p", "q"), ((), ()), (2,), "float32", (-math.inf, -1.0), (math.inf, 1e-7)),
            ActionSchema("box", ("x",), (-math.inf,), (math.inf,)),
        ),
    ],
    ids=["bounded", "unbounded"],
)
def test_schemas_of_every_kind_survive(schemas, tmp_path):
    network = small_network(schemas)
    Checkpoint.of(network, Task("x")).save(tmp_path / "c")
    json.loads((tmp_path / "c" / "manifest.json").read_text(), parse_constant=pytest.fail)  # no Infinity in the JSON
    assert Checkpoint.load(tmp_path / "c").schemas == schemas


def test_build_gives_the_network_back(tmp_path):
    schemas = Schemas(vector(["a", "b"]), box(["x"]))
    network = scrambled(small_network(schemas))
    network.encoder.freeze()
    Checkpoint.of(network, TASK).save(tmp_path / "c")
    rebuilt = Checkpoint.load(tmp_path / "c").build()
    obs = observations(schemas.observation, 6)
    for a, b in zip(network(obs), rebuilt(obs), strict=True):
        assert torch.equal(a, b)
    assert all(p.requires_grad for p in rebuilt.parameters())


def test_a_checkpoint_does_not_follow_the_network():
    network = small_network(Schemas(vector(["a"]), discrete("x")))
    taken = Checkpoint.of(network, TASK)
    before = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    scrambled(network)
    assert_same(dict(taken.tensors), before)


def test_strided_and_empty_parts_survive(tmp_path):
    grid = torch.arange(12.0).view(3, 4)
    Checkpoint.of(
        small_network(Schemas(vector(["a"]), discrete("x"))),
        TASK,
        parts={"m": {"transposed": grid.T, "column": grid[:, 1], "none": torch.zeros(0)}, "empty": {}},
    ).save(tmp_path / "c")
    parts = Checkpoint.load(tmp_path / "c").parts
    assert parts["m"]["transposed"].tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert parts["m"]["column"].tolist() == [1, 5, 9]
    assert parts["m"]["none"].shape == (0,)
    assert parts["empty"] == {}


def test_the_id_is_the_hash_of_the_content(tmp_path):
    identity = checkpoint().save(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest.pop("id") == identity == Checkpoint.load(tmp_path / "a").id
    assert hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest() == identity
    assert checkpoint().save(tmp_path / "b") == identity
    assert checkpoint(seed=1).save(tmp_path / "c") != identity
    assert replace(checkpoint(), lineage=()).save(tmp_path / "d") != identity
    assert Checkpoint.load(tmp_path / "a").save(tmp_path / "e") == identity


def test_the_folder_holds_safetensors_and_json_only(saved):
    assert sorted(f.name for f in saved.iterdir()) == [
        "manifest.json",
        "method.safetensors",
        "normaliser.safetensors",
        "weights.safetensors",
    ]
    assert [f.name for f in saved.parent.iterdir()] == ["ckpt"]
    for file in saved.glob("*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert header
    assert json.loads((saved / "manifest.json").read_text())["format"] == 1


def test_loading_unpickles_nothing(saved):
    found: list[str] = []
    watching = True
    sys.addaudithook(lambda event, _: found.append(event) if watching and event == "pickle.find_class" else None)
    Checkpoint.load(saved).build()
    assert found == []
    pickle.loads(pickle.dumps(Path("x")))
    watching = False  # a hook stays for good
    assert found  # it would have been noticed


@pytest.mark.parametrize("name", ["weights.safetensors", "method.safetensors", "normaliser.safetensors"])
def test_a_flipped_byte_is_found_and_its_file_named(saved, name):
    file = saved / name
    data = file.read_bytes()
    for position in {*range(0, len(data), 41), len(data) - 1}:
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(GraftError, match=f"{name} was truncated or altered"):
            Checkpoint.load(saved)
    file.write_bytes(data)
    Checkpoint.load(saved)


def test_a_flipped_byte_of_the_manifest_is_found(saved):
    file = saved / "manifest.json"
    data = file.read_bytes()
    for position in range(0, len(data), 7):
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(GraftError, match=r"manifest\.json was truncated or altered"):
            Checkpoint.load(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "method.safetensors", "manifest.json"])
@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_truncation_is_found(saved, name, left):
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[:left])
    with pytest.raises(GraftError, match=f"{name} was truncated or altered"):
        Checkpoint.load(saved)


@pytest.mark.parametrize("name", ["weights.safetensors", "method.safetensors", "manifest.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(GraftError, match=f"{name} is missing or cannot be read"):
        Checkpoint.load(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(GraftError, match=r"no checkpoint at .*nowhere; .* holds manifest\.json"):
        Checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(GraftError, match=r"no checkpoint at .*file"):
        Checkpoint.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GraftError, match=r"manifest\.json is missing"):
        Checkpoint.load(tmp_path / "empty")


@pytest.mark.parametrize("content", ["[]", "null", "1", '"text"', "{}", '{"id": 3}'])
def test_a_manifest_that_is_something_else_is_refused(saved, content):
    (saved / "manifest.json").write_text(content)
    with pytest.raises(GraftError, match="was truncated or altered"):
        Checkpoint.load(saved)


def test_an_edited_manifest_is_refused(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["lineage"] = []
    (saved / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
    with pytest.raises(GraftError, match="was truncated or altered"):
        Checkpoint.load(saved)


def test_another_format_is_refused_by_its_number(saved):
    manifest = json.loads((saved / "manifest.json").read_text()) | {"format": 2}
    del manifest["id"]
    identity = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (saved / "manifest.json").write_text(json.dumps(manifest | {"id": identity}, sort_keys=True, indent=1))
    with pytest.raises(GraftError, match="has format 2; this version reads 1"):
        Checkpoint.load(saved)


def test_saving_replaces_and_leaves_nothing_beside_it(saved):
    smaller = replace(checkpoint(seed=1), parts={})
    identity = smaller.save(saved)
    assert Checkpoint.load(saved).id == identity
    assert sorted(f.name for f in saved.iterdir()) == ["manifest.json", "weights.safetensors"]
    assert [f.name for f in saved.parent.iterdir()] == ["ckpt"]


def test_saving_makes_the_folders_above(tmp_path):
    checkpoint().save(tmp_path / "a" / "b" / "c")
    Checkpoint.load(tmp_path / "a" / "b" / "c")


def test_tensors_that_do_not_fit_their_network_are_refused_when_built(tmp_path):
    misfit = replace(checkpoint(), network=NetworkConfig("grid_cnn", {"channels": [4, 6], "features": 8}, (8,)))
    misfit.save(tmp_path / "c")
    with pytest.raises(GraftError, match="do not fit the network"):
        Checkpoint.load(tmp_path / "c").build()


@pytest.mark.parametrize("head", [(20_000, 20_000), (8,) * 20_000])
def test_a_network_far_larger_than_its_tensors_is_refused_before_its_weights_are_drawn(tmp_path, head):
    small = checkpoint()
    replace(small, network=replace(small.network, head=head)).save(tmp_path / "c")
    start = time.process_time()
    with pytest.raises(GraftError, match="far larger"):
        Checkpoint.load(tmp_path / "c").build()
    assert time.process_time() - start < 5


@pytest.mark.parametrize("fault", [MemoryError(), torch.OutOfMemoryError()])
def test_too_little_memory_is_not_a_fault_of_the_checkpoint(saved, monkeypatch, fault):
    def load_tensors(data):
        raise fault

    monkeypatch.setattr("graft.agents.checkpoints.checkpoint.load_tensors", load_tensors)
    with pytest.raises(type(fault)):
        Checkpoint.load(saved)


def test_reading_one_with_an_encoder_of_ones_own_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "their_encoder.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    replace(checkpoint(), network=NetworkConfig("their_encoder:Wide", {}, (8,))).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    with pytest.raises(GraftError, match=r"Module 'their_encoder' of encoder 'their_encoder:Wide' .* \(imported\)"):
        loaded.build()


# Each case runs in a process of its own, which is killed at the n-th line of files.py, which writes everything, or at
# the n-th change of the file system, whichever comes; the processes are forks of one, so that torch is imported once.
KILLER = """
import os, shutil, signal, sys
from pathlib import Path
from graft.agents.checkpoints.files import replace_file
from test_checkpoint import checkpoint

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}

def die_at(count):
    left = [count]
    def tick():
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith("checkpoints/files.py"):
            return None
        if event == "line":
            tick()
        return trace
    sys.addaudithook(lambda event, _: tick() if event in CHANGES else None)
    sys.settrace(trace)

new = checkpoint(seed=1)

def kill_everywhere(root, act):
    survived, count = False, 0
    while not survived:
        folder = root / "killed" / str(count)
        shutil.copytree(root / "before", folder)
        child = os.fork()
        if child == 0:
            die_at(count)
            act(folder)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        survived = status == 0
        assert survived or os.WTERMSIG(status) == signal.SIGKILL, status
        count += 1

root = Path(sys.argv[1])
kill_everywhere(root / "first", lambda folder: new.save(folder / "ckpt"))
kill_everywhere(root / "again", lambda folder: new.save(folder / "ckpt"))
kill_everywhere(root / "file", lambda folder: replace_file(folder / "file", b"new" * 1000))
"""

needs_kill = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


class Killed(NamedTuple):
    """The ids of both checkpoints, and what kills left: folders, the earliest kill first; the last was not killed."""

    old: str
    new: str
    first: list[Path]
    again: list[Path]
    file: list[Path]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    root = tmp_path_factory.mktemp("kills")
    for name in ("first", "again", "file"):
        (root / name / "before").mkdir(parents=True)
    old = checkpoint().save(root / "again" / "before" / "ckpt")
    (root / "file" / "before" / "file").write_bytes(b"old")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run([sys.executable, "-c", KILLER, str(root)], check=True, env={**os.environ, "PYTHONPATH": path})
    left = {n: sorted((root / n / "killed").iterdir(), key=lambda f: int(f.name)) for n in ("first", "again", "file")}
    return Killed(old, checkpoint(seed=1).save(root / "new"), **left)


@pytest.mark.slow
@needs_kill
def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new_one(killed):
    found = [Checkpoint.load(folder / "ckpt").id for folder in killed.again]
    assert set(found) == {killed.old, killed.new}
    assert found == sorted(found, key=[killed.old, killed.new].index)  # once there, the new one stays


@needs_kill
def test_after_a_kill_the_next_save_succeeds(killed):
    torn = [folder for folder in killed.again if not (folder / "ckpt").exists()]
    assert torn  # the moment between the two renames was hit
    for folder in torn:
        assert Checkpoint.load(folder / "ckpt").id == killed.old
        checkpoint(seed=1).save(folder / "ckpt")
        assert Checkpoint.load(folder / "ckpt").id == killed.new
        assert not (folder / "ckpt.previous").exists()


@needs_kill
def test_a_kill_in_the_first_save_leaves_nothing_or_all(killed):
    found: list[str | None] = []
    for folder in killed.first:
        if (folder / "ckpt").exists():
            found.append(Checkpoint.load(folder / "ckpt").id)
        else:
            with pytest.raises(GraftError, match="There is no checkpoint at"):
                Checkpoint.load(folder / "ckpt")
            found.append(None)
    assert set(found) == {None, killed.new}
    assert found == sorted(found, key=[None, killed.new].index)


@needs_kill
def test_a_kill_while_a_file_is_replaced_leaves_the_old_one_or_the_new_one(killed):
    assert {(folder / "file").read_bytes() for folder in killed.file} == {b"old", b"new" * 1000}


def test_replace_file_leaves_nothing_beside_it(tmp_path):
    replace_file(tmp_path / "file", b"one")
    replace_file(tmp_path / "file", b"two")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("file", b"two")]
