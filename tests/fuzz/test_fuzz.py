"""Nothing but sentences comes of what Graft reads: broken inputs of every kind, and those that once made it fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from support.fuzz_guard import guarded, refusals
from support.fuzz_kinds import CHECKPOINT, CORPUS, KINDS, SEED_RUN, STAGE, build, compare, inspect, lab, records, report

from graft.agents.checkpoints.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux"),
    pytest.mark.filterwarnings("ignore"),  # which no command turns into errors
]

QUICK = ("request", "minibatch", "snapshot", "snapshot_tensors", "statistics")
"""Kinds that are read without a command."""

EXAMPLES = 155  # of each kind, in the slow suite


SPECIAL = [
    *("results.json", "experiment.json"),
    *(STAGE / name for name in ("stage.json", "metrics.jsonl", "transplant.json")),
    *(CHECKPOINT / name for name in ("manifest.json", "weights.safetensors")),
]
READERS = (report, compare, inspect, records, build)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(lab(tmp_path / "lab"))
    return tmp_path / "lab"


def take(kind: str, place: Path) -> None:
    """Read the good input, which loads and compiles what the kind needs: a broken one should reach as much."""
    assert refusals(lambda: KINDS[kind].read(KINDS[kind].good(), place)) == []


def give(kind: str, examples: int, place: Path) -> int:
    """Read so many broken inputs, the same ones each time; returns how many."""
    count = 0

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.randoms(use_true_random=True))
    def one(rng):
        nonlocal count
        data = KINDS[kind].broken(rng)
        note(f"{kind}: {data[:2000]!r}")
        with guarded(place):
            KINDS[kind].read(data, place)
        count += 1

    take(kind, place)
    one()
    return count


def known(kinds):
    return [path for kind in kinds for path in sorted((CORPUS / kind).glob("*"))]


def replay(kinds, place: Path) -> int:
    """Read the inputs of `CORPUS`; returns how many."""
    for kind in kinds:
        take(kind, place)
        for path in known([kind]):
            with guarded(place):
                KINDS[kind].read(path.read_bytes(), place)
    return len(known(kinds))


def test_broken_inputs_are_refused(place):
    assert sum(give(kind, 8, place) for kind in QUICK) == 8 * len(QUICK)


def test_inputs_that_were_faults_are_refused(place):
    assert replay(QUICK, place) >= 4


@pytest.mark.slow
def test_all_inputs_that_were_faults_are_refused(place):
    assert replay(KINDS, place) >= 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_broken_inputs_are_refused(place, kind):
    count = give(kind, EXAMPLES, place)
    print(f"{kind}: {count} of {EXAMPLES * len(KINDS):,} inputs")
    assert count * len(KINDS) >= 3000


@pytest.mark.slow
@pytest.mark.parametrize("special", ["pipe", "folder", "endless", "dangling"])
def test_what_is_no_file_of_its_own_is_refused(place, special):
    for name in SPECIAL:
        path = place / "run" / name
        path.unlink()
        match special:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case _:
                path.symlink_to("/dev/zero" if special == "endless" else "nowhere")
        with guarded(place):
            for read in READERS:
                read(place)
        shutil.rmtree(path) if special == "folder" else path.unlink()
        shutil.copy(SEED_RUN / name, path)


def test_the_guard_notices_what_must_not_happen(place, tmp_path):
    def runs_a_module() -> None:
        sys.audit("fuzz_canary")

    def waits() -> None:
        time.sleep(10)

    faults = [
        lambda: (tmp_path / "beside").write_text("x"),
        lambda: (tmp_path / "lab_beside").write_text("x"),
        lambda: (tmp_path / "link").symlink_to(place / "inside"),
        lambda: (place / "other" / "results.json").write_text("x"),
        lambda: os.mkdir(tmp_path / "folder"),
        lambda: subprocess.run(["true"], check=True),
        lambda: bytearray(3 << 30),
        runs_a_module,
        waits,
    ]
    for fault in faults:
        with pytest.raises((AssertionError, MemoryError)), guarded(place, seconds=0.2):
            fault()
    with guarded(place):
        (place / "inside").write_text("x")
        (place / "link").symlink_to("/etc/hosts")


def test_the_guard_leaves_the_alarm_of_the_test_as_it_was(place):
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    with guarded(place):
        pass
    assert signal.getsignal(signal.SIGALRM) is before[0]
    assert before[1] - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= before[1]


def test_a_fault_of_the_code_is_no_refusal(place, monkeypatch):
    def parsed(*_):
        bytearray(3 << 30)

    monkeypatch.setattr(Checkpoint, "_parsed", parsed)
    with pytest.raises(MemoryError), guarded(place):
        build(place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_good_inputs_are_taken(place, kind):
    take(kind, place)
