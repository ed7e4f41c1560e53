"""Tasks of checkpoints from when whole boards were the default view, and `ego` showed names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_tasks import small_network

from graft import envs
from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, sealed
from graft.envs import Task
from graft.envs.builtin.old_views import DEFAULTS, with_view

BOARD, EGO = {"view": "planes"}, {"view": "ego", "channels": "names", "radius": 4}
DODGE, HUNT = "Graft/Dodge-v0", "Graft/Hunt-v0"


def then(task: Task, now: Task) -> Any:
    """The JSON of ``task``, whose observations looked as those of ``now``, made to say so."""
    return with_view(task.to_json(), envs.schemas(now).observation.to_json())


@pytest.mark.parametrize(
    ("kwargs", "today"),
    [
        ({}, BOARD),
        ({"slip": 0.2}, BOARD),
        ({"view": "ego"}, EGO),
        ({"view": "ego", "fog": 2}, EGO),
        ({"view": "features"}, {"view": "features"}),
        ({"view": "pixels"}, {"view": "pixels"}),
        ({"view": "planes"}, BOARD),
    ],
)
def test_a_task_says_what_it_showed(kwargs: dict[str, Any], today: dict[str, Any]) -> None:
    now = Task(DODGE, {**kwargs, **today})
    assert Task.from_json(then(Task(DODGE, kwargs), now)) == now


@pytest.mark.parametrize(
    "kwargs", [{}, {"view": "ego"}, {"radius": 3}, {"channels": "names"}, {"view": "ego", "channels": "both"}]
)
def test_a_task_of_today_stays_as_it_is(kwargs: dict[str, Any]) -> None:
    assert Task.from_json(then(Task(DODGE, kwargs), Task(DODGE, kwargs))) == Task(DODGE, kwargs)


def test_parts_of_a_mixture_say_it_too() -> None:
    def mixture(*tasks: Any) -> Task:
        return Task("Graft/Mixture-v0", {"tasks": list(tasks)})

    before = mixture(DODGE, {"id": HUNT, "kwargs": {"slip": 0.1}})
    now = mixture({"id": DODGE, "kwargs": BOARD}, {"id": HUNT, "kwargs": {"slip": 0.1, **BOARD}})
    assert Task.from_json(then(before, now)) == now
    today = mixture(DODGE, HUNT)
    assert Task.from_json(then(today, today)) == today


def test_other_tasks_stay_as_they_are() -> None:
    for task in (Task("Graft/Pursuit-v0", {"team": "prey"}), Task("CartPole-v1")):
        assert Task.from_json(then(task, task)) == task


def test_a_checkpoint_from_before_plays_its_board(tmp_path: Path) -> None:
    now = Task(DODGE, {"slip": 0.1, **BOARD})
    network = small_network(envs.schemas(now))
    Checkpoint.of(network, now).save(tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / MANIFEST).read_text())
    manifest["task"]["kwargs"] = {"slip": 0.1}
    del manifest[DEFAULTS]
    (tmp_path / "old" / MANIFEST).write_bytes(sealed(manifest)[1])
    loaded = Checkpoint.load(tmp_path / "old")
    assert loaded.task == now
    assert envs.schemas(loaded.task) == loaded.schemas
