"""Nothing in a file of somebody else's runs, and nothing is written beside the output; errors are sentences."""

from __future__ import annotations

import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.hostile_files import GOOD, SAID, amplified_files, hostile_files, saved, sb3, two_directories
from support.tiny_tasks import discrete, vector

from graft.agents.importing.agent import import_agent
from graft.agents.importing.files import load_torch
from graft.agents.importing.source import Request
from graft.agents.importing.statistics import read_statistics
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.experiments.importing.run import read_names

pytest.importorskip("onnx")

SCHEMAS = Schemas(vector("abcd"), discrete("left", "right"))
NAMES = {"kind": "categorical", "policy": ["w"]}
WALL = 20  # seconds for a file that grows
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
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


CHEAP = ("lists in lists.pt", "long key.pt", "key that writes.pt", "side by side.zip", "deepened.zip", "merged.yaml")


def write(folder: Path, only: tuple[str, ...] | None = None) -> None:
    for name, content in amplified_files(folder / "canary"):
        if only is None or name in only:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content())


def refused(folder: Path) -> int:
    """Import the files of a folder, each within `WALL` seconds; returns how many."""
    paths = sorted(folder.iterdir())
    for path in paths:
        signal.alarm(WALL)
        with pytest.raises(GraftError) as caught:
            give(path)
        signal.alarm(0)
        assert len(str(caught.value)) < 1000, path.name
        assert str(caught.value).isprintable(), path.name
    return len(paths)


@linux
def test_small_files_that_grow_are_refused(tmp_path):
    write(tmp_path, CHEAP)
    assert refused(tmp_path) == len(CHEAP)


IN_A_CHILD = """
import resource, sys
from pathlib import Path
import test_hostile_files as tests
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (size, size))
print(tests.refused(Path(sys.argv[1])))
"""


@linux
@pytest.mark.slow
def test_files_that_grow_are_refused_within_1_gib_and_seconds(tmp_path):
    """In a process of its own, whose memory has a limit."""
    write(tmp_path)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 10


def test_torch_reads_the_members_that_were_checked():
    seen, hidden = saved({"w": torch.zeros(1)}), saved({"w": torch.ones(1)})
    both = two_directories(seen, hidden)
    assert torch.load(io.BytesIO(both), weights_only=True)["w"].item() == 1  # by itself it reads the other
    assert load_torch(both, "both")["w"].item() == 0


def test_links_in_a_folder_are_refused(tmp_path):
    (tmp_path / "default_policy").mkdir()
    (tmp_path / "default_policy" / "module_state.pkl").symlink_to("/etc/hostname")
    with pytest.raises(GraftError, match="is a symbolic link"):
        import_agent(Request(tmp_path, SCHEMAS, trust=True))


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
    pickled = {":type:": "x", ":serialized:": entry}
    data = {**SAID, "lr_schedule": pickled, "policy_kwargs": pickled}
    data["policy_class"] = {**SAID["policy_class"], **pickled}
    path = tmp_path / "agent.zip"
    path.write_bytes(sb3(saved(GOOD), json.dumps(data).encode(), {"pytorch_variables.pth": base64.b64decode(entry)}))
    imported = import_agent(Request(path, SCHEMAS))
    assert "pytorch_variables.pth" in imported.assembly.unused
    assert not (tmp_path / "canary").exists()
