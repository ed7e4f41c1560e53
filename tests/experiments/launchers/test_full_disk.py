"""A disk that is full: one sentence, and the stage goes on when there is room."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from graft.agents.checkpoints import files
from graft.command import FAILED, command
from graft.errors import disk_error
from graft.experiments.launchers.launcher import attempt
from graft.experiments.stages import race as stages
from graft.experiments.store.records import Store

STAGE = SimpleNamespace(id="abc", label="finetune", kind="transfer", observer=None, to_json=dict)
REPORTER = SimpleNamespace(noted=lambda text: None)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/data/runs/x")


def test_it_is_told_from_other_errors() -> None:
    outer = RuntimeError("cannot save")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/data/runs/x")
    assert "The disk is full (/data/runs/x); make room" in str(disk_error(outer))
    assert disk_error(OSError(errno.EACCES, "Permission denied")) is None
    assert disk_error(OSError(errno.EIO, "Input/output error")) is None, "of a terminal that has gone"
    assert "The disk has an error (/data/x)" in str(disk_error(OSError(errno.EIO, "Input/output error", "/data/x")))
    read_only = str(disk_error(OSError(errno.EROFS, "Read-only file system", "/data/runs/x")))
    assert read_only.startswith("The disk can only be read (/data/runs/x); make it writable, then give the same")


def test_a_stage_keeps_its_record_and_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    snapshot = store.start(STAGE) / "snapshot"  # type: ignore[arg-type]
    snapshot.mkdir()
    monkeypatch.setattr(stages, "run_race", full)
    error = attempt(STAGE, store, REPORTER, 1)  # type: ignore[arg-type]
    assert error is not None
    assert error.startswith("The disk is full (/data/runs/x)")
    assert (store.record("abc") or {})["status"] == "running", "it goes on, as one that was interrupted"
    assert snapshot.exists()


def test_a_lock_that_does_not_fit_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "lock_stage", full)
    assert str(attempt(STAGE, Store(tmp_path), REPORTER, 1)).startswith("The disk is full")  # type: ignore[arg-type]


def test_a_command_ends_with_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(lambda: full() or 0)() == FAILED
    assert capsys.readouterr().err.startswith("error: The disk is full")


def test_half_a_file_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "record.json").write_text("before")
    real = files.write_durably

    def half(path: Path, data: bytes) -> None:
        real(path, data[: len(data) // 2])
        full()

    monkeypatch.setattr(files, "write_durably", half)
    with pytest.raises(OSError, match="No space left"):
        files.replace_file(tmp_path / "record.json", b"after, and longer")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == "before"
