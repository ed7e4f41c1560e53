"""What Graft reads from files and words of others: for each kind a good input, its broken ones, and what reads it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, sealed
from graft.agents.checkpoints.snapshot import SavedState, Snapshot
from graft.envs.core.schema import Schemas
from support.broken_inputs import (
    WORDS,
    as_text,
    as_yaml,
    changed,
    changed_bytes,
    changed_safetensors,
    changed_text,
    strange,
)
from support.fuzz_guard import graft, refused
from support.tiny_experiment import TINY
from support.tiny_tasks import discrete, vector

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
SEED_RUN = CORPUS / "seed_run"
"""A run of `TINY` with one seed and one method, as `graft run` left it."""

CONFIG: dict[str, Any] = {**TINY, "seeds": 1, "methods": ["finetune"], "sinks": []}
RICH = {
    **CONFIG,
    "sources": [{"id": "Graft/Dodge-v0", "name": "first", "kwargs": {}, "licence": "MIT"}],
    "methods": [{"ewc": {"strength": 10.0}}, "finetune"],
    "resources": {"preset": "local"},
    "cost": {"grams_per_kwh": 400},
    "targets": [{"id": "Graft/Dodge-v0", "kwargs": {"slip": 0.3}, "bounds": [0, 10], "schema": {"as": "source"}}],
}
SEQUENCE = {key: value for key, value in CONFIG.items() if key not in ("sources", "targets")}
SEQUENCE |= {"sequence": [{"id": "Graft/Dodge-v0"}, {"id": "Graft/Dodge-v0", "kwargs": {"slip": 0.3}}]}
PATCH = {
    "agent": "AGENT",
    "new": {"id": "Graft/Dodge-v0", "kwargs": {"slip": 0.3}},
    "methods": ["finetune"],
    "seeds": [0],
    "gates": [{"recovered": 0.9, "within_steps": 100, "method": "finetune"}, {"zero_shot": 0.5}],
    "scenarios": [{"name": "a", "on": "new", "measure": {"of": "return", "is": ">", "value": 1}, "min": 0.5}],
}
SEARCH = {
    "name": "s",
    "experiment": "tiny.yaml",
    "space": {"algorithm.learning_rate": {"log": [1e-4, 1e-2]}, "network.head": ["[8]", "[16]"]},
    "scheduler": {"name": "asha", "reduction": 3},
    "overrides": {"seeds": 1},
}
NAMES = {"kind": "categorical", "policy": ["a", "b"], "activation": "tanh"}
STATE = {"a.weight": torch.ones(8, 4), "a.bias": torch.zeros(8), "b.weight": torch.ones(2, 8), "b.bias": torch.zeros(2)}
REQUEST = {"observation": [[0.0, 1.0, 2.0, 3.0]] * 2}


@dataclass(frozen=True)
class Kind:
    """``broken`` makes an input; ``read`` gives it to Graft in a `lab`, and lets nothing but sentences out."""

    broken: Callable[[Random], bytes]
    read: Callable[[bytes, Path], object]
    good: Callable[[], bytes]


def lab(folder: Path) -> Path:
    """A folder with all that the kinds need."""
    shutil.copytree(SEED_RUN, folder / "run")
    shutil.copytree(SEED_RUN, folder / "other")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "fuzz_canary.py").write_text("import sys\nsys.audit('fuzz_canary')\n")
    return folder


def _stage(kind: str = "transfer") -> Path:
    """Of `SEED_RUN`, relative to it."""
    for path in sorted(SEED_RUN.glob("stages/*/stage.json")):
        if json.loads(path.read_text())["kind"] == kind and "finetune" in path.read_text():
            return path.parent.relative_to(SEED_RUN)
    raise AssertionError("no such stage")


STAGE = _stage()
CHECKPOINT = STAGE / "checkpoint"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def json_of(path: Path) -> Callable[[Random], bytes]:
    """A JSON file of `SEED_RUN` with values changed, or its text."""

    def broken(rng: Random) -> bytes:
        data = (SEED_RUN / path).read_bytes()
        if rng.randrange(8) == 0:
            return changed_bytes(rng, data)
        return _encoded(as_text(changed(rng, json.loads(data))))

    return broken


def lines_of(path: Path) -> Callable[[Random], bytes]:
    """The same of a file with JSON in each line."""

    def broken(rng: Random) -> bytes:
        lines = [json.loads(line) for line in (SEED_RUN / path).read_text().splitlines()]
        return (
            b"\n".join(_encoded(as_text(line)) for line in changed(rng, lines)) + b"\n"
            if rng.randrange(4)
            else changed_bytes(rng, (SEED_RUN / path).read_bytes())
        )

    return broken


def yaml_of(*trees: Any) -> Callable[[Random], bytes]:
    def broken(rng: Random) -> bytes:
        return _encoded(as_yaml(rng, changed(rng, rng.choice(trees))))

    return broken


def resealed(data: bytes) -> bytes:
    """A manifest with the id that belongs to it, as whoever writes one can make it."""
    try:
        return sealed(json.loads(data))[1]
    except (ValueError, AttributeError, RecursionError):
        return data


def overrides(rng: Random) -> bytes:
    """``key=value`` words, a line for each."""
    keys = [
        "targets.0.kwargs.slip",
        "seeds",
        "methods.0",
        "algorithm.num_envs",
        "network.head.0",
        "pretrain.steps",
        "name",
    ]
    keys += [
        "network.options.channels",
        "evaluation.every",
        "sources.0.id",
        "transfer.steps",
        "resources.preset",
        "sinks",
    ]
    words = []
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice(keys)
        if rng.randrange(3) == 0:
            key = rng.choice(
                [changed_text(rng, key), f"{key}.{rng.choice(WORDS[:20])}", f"{key}.0.0.0", key.replace("0", "²")]
            )
        value = as_yaml(rng, strange(rng)) if rng.randrange(4) else rng.choice(WORDS)
        words.append(f"{key}={value}".replace("\n", " "))
    return _encoded("\n".join(words))


def words_of(*good: str) -> Callable[[Random], bytes]:
    def broken(rng: Random) -> bytes:
        words = [rng.choice(good)]
        for _ in range(rng.randrange(3)):
            odd = rng.choice(WORDS)
            words += [rng.choice([odd, f"slip={odd}", f"{odd}=1", changed_text(rng, good[0])])]
        return _encoded("\n".join(words).replace("\x00", ""))

    return broken


def dry_run(data: bytes, place: Path) -> None:
    (place / "input.yaml").write_bytes(data.replace(b"fuzz_canary", b"fuzz_nothing"))  # a config may name modules
    graft("run", "input.yaml", "--dry-run", "--out", "out")


def dry_run_overridden(data: bytes, place: Path) -> None:
    words = (
        data.decode("utf-8", "surrogateescape").replace("\x00", "").replace("fuzz_canary", "fuzz_nothing").split("\n")
    )
    graft("run", "tiny.yaml", "--dry-run", "--out", "out", *words)


def in_place(relative: Path | str, *readers: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """Writes a file of the run, gives the lab to each reader, and puts the good file back."""

    def read(data: bytes, place: Path) -> None:
        path = place / "run" / relative
        path.write_bytes(data)
        try:
            for reader in readers:
                reader(place)
        finally:
            path.write_bytes((SEED_RUN / relative).read_bytes())

    return read


def report(place: Path) -> None:
    graft("report", "run", "--csv", "run/tables", "--latex", "run/table.tex")


def compare(place: Path) -> None:
    graft("compare", "run", "other")
    graft("compare", "other", "run", "--markdown")


def inspect(place: Path) -> None:
    own = str(Path("run") / CHECKPOINT)
    graft("inspect", own, "--verify")
    graft("inspect", "run", "--verify")
    graft("inspect", own, "--config", "--search", "run")
    graft("inspect", own, "--diff", str(Path("other") / CHECKPOINT))


def build(place: Path) -> None:
    refused(lambda: Checkpoint.load(place / "run" / CHECKPOINT).build())


def goes_on(place: Path) -> None:
    graft("run", "tiny.yaml", "--out", "run", "--dry-run")


def records(place: Path) -> None:
    from graft.experiments.store.records import Store

    store = Store(place / "run")
    refused(lambda: store.done(STAGE.name))
    refused(lambda: store.diverged(STAGE.name))


def as_source(data: bytes, place: Path) -> None:
    config = {**CONFIG, "sources": [{"checkpoint": str(Path("run") / CHECKPOINT)}]}
    (place / "input.yaml").write_text(yaml.safe_dump(config))
    in_place(CHECKPOINT / MANIFEST, lambda _: graft("run", "input.yaml", "--dry-run", "--out", "out"))(
        resealed(data.replace(b"fuzz_canary", b"fuzz_nothing")), place
    )  # a run makes the task of its source


def manifest(data: bytes, place: Path) -> None:
    in_place(CHECKPOINT / MANIFEST, build, inspect)(resealed(data), place)


def weights(data: bytes, place: Path) -> None:
    """With the hash that belongs to them in the manifest."""
    path = place / "run" / CHECKPOINT
    (path / "weights.safetensors").write_bytes(data)
    found = json.loads((SEED_RUN / CHECKPOINT / MANIFEST).read_bytes())
    found["files"]["weights.safetensors"] = hashlib.sha256(data).hexdigest()
    in_place(CHECKPOINT / MANIFEST, build, inspect)(sealed(found)[1], place)
    shutil.copy(SEED_RUN / CHECKPOINT / "weights.safetensors", path)


def metrics(data: bytes, place: Path) -> None:
    from graft.experiments.store.records import Store

    in_place(STAGE / "metrics.jsonl", report, records)(data, place)
    path = place / "run" / STAGE / "metrics.jsonl"
    path.write_bytes(data)
    refused(lambda: Store(place / "run").evaluations(STAGE.name))
    path.write_bytes((SEED_RUN / STAGE / "metrics.jsonl").read_bytes())


SNAPSHOT = Snapshot(
    128,
    1.5,
    {
        "caller": SavedState({"x": torch.ones(3)}, {"metrics": [0, hashlib.sha256().hexdigest()], "running": {}}),
        "algorithm": SavedState({"y": torch.zeros(2, 2)}, {"steps": [1, 2]}),
    },
)


def snapshot(data: bytes, place: Path, tensors: bytes | None = None) -> None:
    """Read as the stage reads it that it belongs to."""
    folder = place / "run" / STAGE / "snapshot"
    SNAPSHOT.write(folder, {"stage": "x"})
    if tensors is not None:
        found = json.loads((folder / "snapshot.json").read_bytes())
        (folder / found["tensors"]["file"]).write_bytes(tensors)
        found["tensors"]["sha256"] = hashlib.sha256(tensors).hexdigest()
        data = json.dumps(found).encode()
    else:
        data = data.replace(b"@file@", next(folder.glob("*.safetensors")).name.encode())
        data = data.replace(
            b"@sha@", hashlib.sha256(next(folder.glob("*.safetensors")).read_bytes()).hexdigest().encode()
        )
    (folder / "snapshot.json").write_bytes(resealed(data))
    found_one = Snapshot.read(folder, {"stage": "x"})
    assert found_one is None or isinstance(found_one.env_steps, int)
    from graft.experiments.stages.resume import _refusal

    assert isinstance(_refusal(folder / "snapshot.json", {"stage": "y", "versions": {"a": 1}}), str)
    shutil.rmtree(folder)


def _snapshot_values() -> dict[str, Any]:
    return {
        "format": 1,
        "identity": {"stage": "x"},
        "env_steps": 128,
        "seconds": 1.5,
        "fresh_at": [],
        "values": {part: dict(saved.values) for part, saved in SNAPSHOT.parts.items()},
        "devices": {},
        "tensors": {"file": "@file@", "sha256": "@sha@"},
    }


def _tensors() -> bytes:
    return save_tensors(
        {f"{part}/{name}": t for part, saved in SNAPSHOT.parts.items() for name, t in saved.tensors.items()}
    )


def names(data: bytes, place: Path) -> None:
    from graft.agents.importing.agent import import_agent
    from graft.agents.importing.source import Request
    from graft.experiments.importing.run import read_names

    (place / "names.yaml").write_bytes(data)
    if not (place / "state.safetensors").exists():
        (place / "state.safetensors").write_bytes(save_tensors(STATE))
    schemas = Schemas(vector("abcd"), discrete("left", "right"))
    refused(lambda: import_agent(Request(place / "state.safetensors", schemas, names=read_names(place / "names.yaml"))))


def state(data: bytes, place: Path) -> None:
    _imports("broken.safetensors", data, place, **NAMES)


def _imports(name: str, data: bytes, place: Path, schemas: Schemas | None = None, **names: Any) -> None:
    """A file of another library, as an agent."""
    from graft.agents.importing.agent import import_agent
    from graft.agents.importing.source import Request

    (place / name).write_bytes(data)
    schemas = schemas or Schemas(vector("abcd"), discrete("left", "right"))
    refused(lambda: import_agent(Request(place / name, schemas, names=names)))


def sb3_zip(data: bytes, place: Path) -> None:
    _imports("broken.zip", data, place)


def torch_state(data: bytes, place: Path) -> None:
    _imports("broken.pt", data, place, **NAMES)


def onnx_graph(data: bytes, place: Path) -> None:
    _imports("broken.onnx", data, place)


def contract(data: bytes, place: Path) -> None:
    """Read as the checks of an export and as whoever plays it read it, with the id that belongs to it."""
    from graft.agents.export.verify import verify
    from graft.agents.serving.model import Model

    path = place / "served.onnx"
    for name, content in _exported().items():
        (place / name).write_bytes(content)
    (place / "served.onnx.contract.json").write_bytes(resealed(data))
    refused(lambda: verify(path))
    refused(lambda: Model.of(path))


def statistics(data: bytes, place: Path) -> None:
    from graft.agents.importing.statistics import read_statistics

    path = place / ("broken.npz" if data.startswith(b"PK") else "broken.json")
    path.write_bytes(data)
    refused(lambda: read_statistics(path))


@cache
def _agent() -> bytes:
    """A zip that Stable-Baselines3 has written."""
    import gymnasium as gym
    from stable_baselines3 import PPO

    class Four(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        action_space = gym.spaces.Discrete(2)

    stream = io.BytesIO()
    PPO("MlpPolicy", Four(), policy_kwargs={"net_arch": [8]}, device="cpu", seed=0).save(stream)
    return stream.getvalue()


@cache
def _torch_state() -> bytes:
    stream = io.BytesIO()
    torch.save(STATE, stream)
    return stream.getvalue()


@cache
def _exported() -> dict[str, bytes]:
    """An ONNX file with its contract and test vectors, by name."""
    from graft.experiments.playback.export import export_agent

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "served.onnx"
        export_agent(SEED_RUN / CHECKPOINT, "onnx", path)
        return {file.name: file.read_bytes() for file in sorted(path.parent.iterdir())}


@cache
def _onnx() -> bytes:
    """Two layers, as other libraries write them."""
    import onnx
    from onnx import helper, numpy_helper

    dice = np.random.default_rng(0)
    numbers = {"w": dice.normal(size=(8, 4)), "b": np.zeros(8), "v": dice.normal(size=(2, 8)), "c": np.zeros(2)}
    stored = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in numbers.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "v", "c"], ["y"], transB=1),
    ]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])]
    made = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "policy", given, made, stored)
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return data


def _changed_zip(good: Callable[[], bytes]) -> Callable[[Random], bytes]:
    """One of a zip's members changed, and zipped again with its checksum; or the zip's own bytes."""

    def broken(rng: Random) -> bytes:
        if rng.randrange(4) == 0:
            return changed_bytes(rng, good())
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good())) as old, zipfile.ZipFile(stream, "w") as new:
            members = {name: old.read(name) for name in old.namelist()}
            chosen = rng.choice(sorted(members))
            members[chosen] = _changed_member(rng, chosen, members[chosen])
            if rng.randrange(8) == 0:
                del members[rng.choice(sorted(members))]
            for name, content in members.items():
                new.writestr(name, content)
        return stream.getvalue()

    return broken


def _changed_member(rng: Random, name: str, data: bytes) -> bytes:
    """Of a zip: JSON and zips within by their contents."""
    if name == "data":
        return _encoded(as_text(changed(rng, json.loads(data))))
    if data.startswith(b"PK") and rng.randrange(3):
        return _changed_zip(lambda: data)(rng)
    return changed_bytes(rng, data)


def _changed_onnx(rng: Random) -> bytes:
    """Fields of the graph changed, or the file's bytes."""
    import onnx

    if rng.randrange(2):
        return changed_bytes(rng, _onnx())
    made = onnx.ModelProto.FromString(_onnx())
    for _ in range(rng.randrange(1, 4)):
        node, number = rng.choice(made.graph.node), rng.choice(made.graph.initializer)
        match rng.randrange(8):
            case 0:
                node.op_type = rng.choice(
                    ["Add", "Relu", "Loop", "If", "Reshape", "Softmax", "MatMul", "Flatten", "\0"]
                )
            case 1:
                del node.input[rng.randrange(4) :]
            case 2:
                node.input[:] = [rng.choice(["x", "y", "h", "t", "w", "v", "b", "c", "", "q"]) for _ in node.input]
            case 3:
                number.dims[:] = [rng.choice([0, 1, 2, 4, 8, -1, 1 << 40, 1 << 62]) for _ in range(rng.randrange(5))]
            case 4:
                number.data_type = rng.randrange(25)
            case 5:
                node.output[:] = [rng.choice(["x", "y", "h", "t", ""])]
            case 6:
                shape = made.graph.input[0].type.tensor_type.shape.dim
                shape[rng.randrange(len(shape))].dim_value = rng.choice([0, 1, 3, 1 << 31, 1 << 62, -5])
            case _:
                number.raw_data = changed_bytes(rng, number.raw_data)
    return bytes(made.SerializeToString())


def _contract(rng: Random) -> bytes:
    return _encoded(as_text(changed(rng, json.loads(_exported()["served.onnx.contract.json"]))))


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, mean=np.zeros(4), var=np.ones(4))
    return stream.getvalue()


def _statistics(rng: Random) -> bytes:
    good = {"mean": [0.0] * 4, "var": [1.0] * 4, "clip": 10.0, "epsilon": 1e-8}
    if rng.randrange(2):
        return changed_bytes(rng, _npz())
    return _encoded(as_text(changed(rng, rng.choice([good, {"parts": {"a": good}}]))))


def patch(data: bytes, place: Path) -> None:
    words = data.replace(b"fuzz_canary", b"fuzz_nothing").replace(b"AGENT", str(Path("run") / CHECKPOINT).encode())
    (place / "check.yaml").write_bytes(words)
    graft("patch", "check.yaml", "--dry-run", "--out", "out")


def search(data: bytes, place: Path) -> None:
    from graft.experiments.search.definition import load_search

    (place / "search.yaml").write_bytes(data)
    refused(lambda: load_search(str(place / "search.yaml")).config())


def request(data: bytes, place: Path) -> None:
    from types import SimpleNamespace

    from graft.agents.export.ports import Port
    from graft.experiments.serving.requests import read_request

    model: Any = SimpleNamespace(ports=[Port("observation", (4,))], schemas=Schemas(vector("abcd"), discrete("l", "r")))
    refused(lambda: read_request(data, model))


def task_words(data: bytes, place: Path) -> None:
    from graft.envs.core.task_string import task_of
    from graft.envs.factory import schemas

    words = data.decode("utf-8", "surrogateescape").split("\n")
    refused(lambda: schemas(task_of([word for word in words if "fuzz_canary" not in word])))


def minibatch(data: bytes, place: Path) -> None:
    from graft.experiments.stages.divergence import divergences

    path = place / "run" / STAGE / "diverged-1.safetensors"
    path.write_bytes(data)
    refused(lambda: divergences(path.parent))
    path.unlink()


def _minibatch() -> bytes:
    return save_arrays({"obs": np.zeros(3, np.float32)}, {"env_steps": "5", "learning_rate": "0.1", "error": "x"})


def _file(relative: Path | str) -> Callable[[], bytes]:
    return lambda: (SEED_RUN / relative).read_bytes()


def _json(tree: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(tree).encode()


def _request(rng: Random) -> bytes:
    return (
        changed_bytes(rng, json.dumps(REQUEST).encode())
        if rng.randrange(4) == 0
        else _encoded(as_text(changed(rng, REQUEST)))
    )


WEIGHTS = CHECKPOINT / "weights.safetensors"

KINDS = {
    "config": Kind(yaml_of(CONFIG, RICH, SEQUENCE), dry_run, _json(RICH)),
    "override": Kind(overrides, dry_run_overridden, lambda: b"seeds=2\ntargets.0.kwargs.slip=0.5"),
    "manifest": Kind(json_of(CHECKPOINT / MANIFEST), manifest, _file(CHECKPOINT / MANIFEST)),
    "source": Kind(json_of(CHECKPOINT / MANIFEST), as_source, _file(CHECKPOINT / MANIFEST)),
    "weights": Kind(lambda rng: changed_safetensors(rng, _file(WEIGHTS)()), weights, _file(WEIGHTS)),
    "snapshot": Kind(
        lambda rng: _encoded(as_text(changed(rng, _snapshot_values()))), snapshot, _json(_snapshot_values())
    ),
    "snapshot_tensors": Kind(
        lambda rng: changed_safetensors(rng, _tensors()), lambda data, place: snapshot(b"", place, data), _tensors
    ),
    "results": Kind(json_of(Path("results.json")), in_place("results.json", report, compare), _file("results.json")),
    "experiment": Kind(
        json_of(Path("experiment.json")), in_place("experiment.json", report, goes_on), _file("experiment.json")
    ),
    "stage": Kind(
        json_of(STAGE / "stage.json"),
        in_place(STAGE / "stage.json", report, inspect, records),
        _file(STAGE / "stage.json"),
    ),
    "metrics": Kind(lines_of(STAGE / "metrics.jsonl"), metrics, _file(STAGE / "metrics.jsonl")),
    "transplant": Kind(
        json_of(STAGE / "transplant.json"),
        in_place(STAGE / "transplant.json", report),
        _file(STAGE / "transplant.json"),
    ),
    "names": Kind(yaml_of(NAMES), names, _json(NAMES)),
    "state": Kind(lambda rng: changed_safetensors(rng, save_tensors(STATE)), state, lambda: save_tensors(STATE)),
    "sb3_zip": Kind(_changed_zip(_agent), sb3_zip, _agent),
    "torch_state": Kind(_changed_zip(_torch_state), torch_state, _torch_state),
    "onnx": Kind(_changed_onnx, onnx_graph, _onnx),
    "contract": Kind(_contract, contract, lambda: _exported()["served.onnx.contract.json"]),
    "statistics": Kind(_statistics, statistics, _npz),
    "patch": Kind(yaml_of(PATCH), patch, _json(PATCH)),
    "search": Kind(yaml_of(SEARCH), search, _json(SEARCH)),
    "request": Kind(_request, request, _json(REQUEST)),
    "task": Kind(
        words_of("Graft/Dodge-v0", "Graft/Maze-v0", "CartPole-v1"), task_words, lambda: b"Graft/Dodge-v0\nslip=0.3"
    ),
    "minibatch": Kind(lambda rng: changed_safetensors(rng, _minibatch()), minibatch, _minibatch),
}
