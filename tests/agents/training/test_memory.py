"""Freed memory stays with the process, so that large tensors come without page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from graft.agents.training.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def work():
    tensors = [torch.ones(2_000_000) for _ in range(8)]
    return [tensor + 1 for tensor in tensors]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow  # two processes that load torch
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_used_again():
    def faults(word: str) -> list[str]:
        return subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True).stdout.split()

    (_, usual), (kept, few) = faults("leave"), faults("keep")
    assert kept == "True"
    assert int(few) < int(usual) / 10


def test_other_systems_are_left_alone(monkeypatch):
    from graft.agents.training import memory

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    assert not memory.keep_freed_memory()
