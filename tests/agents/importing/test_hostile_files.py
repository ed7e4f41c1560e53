"""Nothing in a file of somebody else's runs, and nothing is written beside the output; errors are sentences."""

from __future__ import annotations

import os
import pickle
import resource
import sys
import time
from pathlib import Path

import pytest
from support.hostile_files import GOOD, hostile_files, saved, sb3

from graft.agents.importing.agent import import_agent
from graft.agents.importing.source import Request
from graft.agents.importing.statistics import read_statistics
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import GraftError
from graft.experiments.importing.run import read_names

pytest.importorskip("onnx")

SEEN = ObservationSchema("vector", tuple("abcd"), ((),) * 4, (4,), "float32", (-1.0,) * 4, (1.0,) * 4)
SCHEMAS = Schemas(SEEN, ActionSchema("discrete", ("left", "right")))
NAMES = {"kind": "categorical", "policy": ["w"]}
EVERY = 11
"""Of the hostile files, one in so many is in the default suite."""


def give(path: Path) -> None:
    """Import a file as the command does."""
    if path.suffix == ".yaml":
        Request(path, SCHEMAS, names=read_names(path))
        import_agent(Request(path, SCHEMAS, names=read_names(path)))
    elif path.suffix in (".npz", ".json", ".pkl"):
        read_statistics(path)
    else:
        import_agent(Request(path, SCHEMAS, names={} if path.suffix in (".zip", ".onnx") else NAMES))


def check(folder: Path, every: int) -> int:
    """Import one hostile file in ``every``; returns how many."""
    (folder / "in").mkdir()
    canary, count = folder / "canary", 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, (name, data) in enumerate(hostile_files(canary, every)):
        path = folder / "in" / f"{number}{Path(name).suffix}"
        path.write_bytes(data)
        began = time.process_time()
        with pytest.raises(GraftError) as caught:
            give(path)
        assert "\n" not in str(caught.value), name
        assert len(str(caught.value)) < 1000, name
        assert time.process_time() - began < 10, name
        assert os.listdir(folder) == ["in"], name
        path.unlink()
        count += 1
    assert not list((folder / "in").iterdir())
    if sys.platform.startswith("linux"):
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "more than 1 GiB"
    return count


def test_hostile_files_are_refused(tmp_path):
    assert check(tmp_path, EVERY) >= 30


@pytest.mark.slow
def test_all_hostile_files_are_refused(tmp_path):
    assert check(tmp_path, 1) >= 200


def test_the_canary_would_appear_where_a_pickle_is_loaded(tmp_path):
    from support.hostile_files import payloads

    for way in ("exec", "eval"):
        canary = tmp_path / way
        pickle.loads(payloads(canary, 2)[way])
        assert canary.exists()


def test_pickled_entries_of_data_are_never_read(tmp_path):
    import base64
    import json

    from support.hostile_files import payloads

    entry = base64.b64encode(payloads(tmp_path / "canary", 4)["exec"]).decode()
    data = {name: {":type:": "x", ":serialized:": entry} for name in ("policy_class", "policy_kwargs", "lr_schedule")}
    path = tmp_path / "agent.zip"
    path.write_bytes(sb3(saved(GOOD), json.dumps(data).encode(), {"pytorch_variables.pth": base64.b64decode(entry)}))
    imported = import_agent(Request(path, SCHEMAS))
    assert "pytorch_variables.pth" in imported.assembly.unused
    assert not (tmp_path / "canary").exists()
