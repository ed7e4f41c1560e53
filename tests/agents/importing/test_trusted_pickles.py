"""The process that unpickles what is trusted: what it reads, and what it cannot do."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.agents.importing import trusted
from graft.errors import GraftError

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock and namespaces are of Linux")

DEED = """
import socket, pathlib
found = []
try:
    pathlib.Path({canary!r}).write_text("x")
    found.append("wrote")
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2)
    found.append("connected")
except OSError:
    pass
"""


class Deed:
    """Unpickles to a mapping that says what its code was able to do."""

    def __init__(self, canary: Path, port: int) -> None:
        self.code = DEED.format(canary=str(canary), port=port)

    def __reduce__(self) -> Any:
        told = "{name: __import__('numpy').float32(name in g['found']) for name in ('wrote', 'connected')}"
        return eval, (f"(lambda g: (exec({self.code!r}, g), {told})[1])({{}})",)


def module(folder: Path, state: Any) -> Path:
    """A module of RLlib as it is saved."""
    folder.mkdir()
    (folder / "module_state.pkl").write_bytes(pickle.dumps(state))
    about = {"ctor_args_and_kwargs": ((), {"model_config": {"fcnet_activation": "relu", "vf_share_layers": False}})}
    (folder / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(about))
    return folder


@linux
@pytest.mark.slow  # a process that imports numpy
def test_it_can_neither_write_elsewhere_nor_connect(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        path = module(tmp_path / "module", Deed(tmp_path / "canary", server.getsockname()[1]))
        found = trusted.read_trusted("rllib", path)
    if not found.held:
        pytest.skip("this system grants no protection")
    assert found.said == {"fcnet_activation": "relu", "vf_share_layers": False}
    if "Landlock" in found.held:
        assert not found.tensors["wrote"]
        assert not (tmp_path / "canary").exists()
    assert not found.tensors["connected"]


@pytest.mark.slow
def test_numbers_come_back_by_their_names(tmp_path):
    state = {"pi": {"weight": np.ones((2, 3))}, "words": "left out", "count": np.int64(3)}
    found = trusted.read_trusted("rllib", module(tmp_path / "module", state))
    assert found.tensors["pi.weight"].tolist() == np.ones((2, 3)).tolist()
    assert found.tensors.keys() == {"pi.weight", "count"}


@pytest.mark.slow
def test_a_damaged_pickle_is_a_sentence(tmp_path):
    path = module(tmp_path / "module", {})
    (path / "module_state.pkl").write_bytes(b"\x80\x04broken")
    with pytest.raises(GraftError, match="could not be read by its own library"):
        trusted.read_trusted("rllib", path)
