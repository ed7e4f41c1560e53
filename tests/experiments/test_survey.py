"""The survey: its list, the record of each environment, the table, and virtual environments."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import graft
from graft.errors import GraftError
from graft.experiments import survey
from graft.experiments.environments import venvs
from graft.experiments.environments.entries import read_packages
from graft.experiments.environments.table import BEGIN, END, counts, markdown, write_page

DOCS = Path(__file__).parents[2] / "docs"
LIST = """
walker:
  field: robotics
  released: 2026-01
  install: [walker]
  environments:
    - {id: "walker:Walk-v0", target: {kwargs: {gravity: 1}}}
    - {id: "walker:Run-v0"}
broken:
  field: games
  released: 2020-01
  install: [broken]
  environments: [{id: "broken:Game-v0"}]
gone: {field: games, released: 2019-01, reason: No release for this Python.}
"""
GOOD = {
    "version": "1.2",
    "observation": "vector of 3",
    "action": "box 2",
    "play": {"result": "equal", "steps": 120, "episodes": 1, "faults": "", "clipped": 2},
    "transfer": {"target": "Walk(gravity=1)", "carried": 3, "fresh": 1, "source": [1, 2.5], "returns": [2, 3]},
}


class FakeVenvs:
    """One package can't be installed; each other's first environment works, the second is refused."""

    def __init__(self, folder: Path) -> None:
        pass

    def install(self, name: str, package: Any) -> str | None:
        return "No solution found" if name == "broken" else None

    def run(self, package: Any, jobs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for number, job in enumerate(jobs):
            assert job["distribution"] == "walker"
            yield GOOD if number == 0 else {"failed": "making it", "error": "Observations are Text; allowed: Box."}


def write_list(folder: Path) -> str:
    (folder / "list.yaml").write_text(LIST)
    return str(folder / "list.yaml")


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(venvs, "Venvs", FakeVenvs)
    return ["--packages", write_list(tmp_path), "--record", str(tmp_path / "record.json")]


def test_one_that_fails_stops_no_other(listed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert survey.main(listed) == 1
    record = json.loads(Path(listed[3]).read_text())
    assert record["walker:Walk-v0"] == GOOD
    assert record["broken:Game-v0"] == {"install": "No solution found"}
    assert record["walker:Run-v0"]["error"].startswith("Observations are Text")
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if line.startswith("| `walker:Walk-v0`"))
    assert row == (
        "| `walker:Walk-v0` | 1.2, 2026-01 | vector of 3; box 2 | equal (120 steps, 1 episode, 2 clipped) | "
        "to `Walk(gravity=1)`: 3 carried, 1 fresh | 1 → 2.5; 2 → 3 |"
    )
    assert "does not install: No solution found" in table
    assert "refused: Observations are Text; allowed: Box." in table
    assert "| gone | 2019-01 |  | No release for this Python. |" in table
    assert capsys.readouterr().out == ""
    assert survey.main([*listed, "--missing"]) == 0, "nothing is left to try"


def test_rows_can_be_made_again_alone(listed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert survey.main([*listed, "--only", "walker:Walk"]) == 0
    assert json.loads(Path(listed[3]).read_text()).keys() == {"walker:Walk-v0"}
    assert survey.main([*listed, "--only", "wlaker"]) == 2
    assert "Did you mean 'walker'" in capsys.readouterr().err


def test_the_table_stands_between_the_marks(tmp_path: Path, listed: list[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    packages = read_packages(Path(listed[1]))
    write_page(page, packages, {"walker:Walk-v0": GOOD})
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "1 environments of 1 packages: 1 play as their library does, in 1 a transfer ran through." in text
    page.write_text("no marks")
    with pytest.raises(GraftError, match="to write the table between"):
        write_page(page, packages, {})


def test_graft_and_what_is_unpinned_are_left_out_of_the_pins() -> None:
    pins = {line.partition("==")[0] for line in venvs.constraints(["NumPy", "ray"])}
    assert {"gymnasium", "torch", "stable-baselines3"} <= pins
    assert not pins & {"numpy", "ray", "graft-rl"}


def test_virtual_environments_see_this_graft_and_nothing_beside_it(tmp_path: Path) -> None:
    folder = venvs.Venvs(tmp_path).graft_path()
    assert [path.name for path in folder.iterdir()] == ["graft"]
    assert (folder / "graft").resolve() == Path(graft.__file__).parent.resolve()


def test_the_page_is_that_of_the_list_and_the_record() -> None:
    packages, record = read_packages(), json.loads((DOCS / "environments.json").read_text())
    text = (DOCS / "environments.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == f"{counts(packages, record)}\n\n" + markdown(
        packages, record
    )
    tried = [name for name, p in packages.items() for entry in p.environments if entry.key in record]
    assert len(tried) >= 30
    assert len(set(tried)) >= 12


def test_play_that_was_equal_stands_beside_a_transfer_that_took_too_long(listed: list[str]) -> None:
    found = {key: value for key, value in GOOD.items() if key != "transfer"} | {"timeout": 60}
    row = next(
        line
        for line in markdown(read_packages(Path(listed[1])), {"walker:Walk-v0": found}).splitlines()
        if "Walk" in line
    )
    assert "| equal (120 steps, 1 episode, 2 clipped) | took longer than 60 s |" in row


@pytest.mark.parametrize("tool", ["/usr/bin/uv", None])
def test_a_virtual_environment_that_was_not_finished_is(
    tool: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By uv, or by pip where that is not there."""
    package, calls, full = read_packages(Path(write_list(tmp_path)))["walker"], [], [True]

    def call(command: Sequence[str]) -> None:
        calls.append(list(command))
        if command[1:3] == ["-m", "venv"] or command[1] == "venv":
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        elif full:
            raise subprocess.CalledProcessError(1, command, stderr="No space left\n on device")

    monkeypatch.setattr(venvs, "_call", call)
    monkeypatch.setattr(venvs.shutil, "which", lambda name: tool)
    assert venvs.Venvs(tmp_path / "a folder").install("walker", package) == "No space left on device"
    full.clear()
    calls.clear()
    assert venvs.Venvs(tmp_path / "a folder").install("walker", package) is None
    python = str(tmp_path / "a folder" / "shared" / "bin" / "python")
    front = [tool, "pip", "install", "-q", "--python", python] if tool else [python, "-m", "pip", "install", "-q"]
    assert [command[: len(front)] for command in calls] == [front, front]
    assert any(line.startswith("torch") for line in calls[0]), "what Graft needs, again"
    assert calls[1][-1] == "walker"
