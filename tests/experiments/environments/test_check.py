"""Trying one environment: what it shows, how it plays, and why it can't."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import pytest

from graft.experiments.environments import check
from graft.experiments.environments.check import transfer, try_out
from graft.experiments.environments.entries import Entry


def tried(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {}
    written: list[int] = []
    try_out(entry, "gymnasium", found, lambda: written.append(len(found)))
    assert written[-1] == len(found)
    return found


def test_an_environment_that_plays_as_its_library() -> None:
    found = tried(Entry(id="CartPole-v1", limit=10, steps=15))
    assert (found["observation"], found["action"]) == ("vector of 4", "discrete 2")
    assert found["version"] == gym.__version__
    assert found["play"] == {"result": "equal", "steps": 30, "episodes": 2, "faults": "", "clipped": 0}
    assert not found.keys() & {"error", "traceback", "transfer"}


def test_a_refusal_is_a_sentence_and_another_error_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tried(Entry(id="no_such_games:Foo-v0"))
    assert found["error"].startswith("Module 'no_such_games' of task 'no_such_games:Foo-v0' cannot be imported")
    assert found["failed"] == "making it"

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(check, "compare", broken)
    found = tried(Entry(id="CartPole-v1"))
    assert found["traceback"] == "ZeroDivisionError: of its own"
    assert (found["failed"], found["observation"]) == ("play", "vector of 4"), "what was known before is kept"


@pytest.mark.slow
def test_a_small_transfer_says_what_it_carried() -> None:
    entry = Entry(id="CartPole-v1", target={"kwargs": {"length": 2.0}}, limit=20, pretrain=256, transfer=256)
    from graft.envs.core.task import Task

    found = transfer(entry, Task("CartPole-v1", {"max_episode_steps": 20}))
    assert (found["carried"], found["fresh"]) == (4, 0)
    for mean in (*found["source"], *found["returns"]):
        assert 8 <= mean <= 20


def test_folders_of_the_machine_are_left_out_of_messages() -> None:
    text = f"cannot import 'Space' ({sys.prefix}/lib/python3.11/site-packages/gym/spaces/__init__.py)"
    assert check._tidy(text) == "cannot import 'Space' (__init__.py)"
    assert check._tidy("a ratio of 1/2") == "a ratio of 1/2"
