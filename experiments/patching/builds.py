"""Whether the code of both builds is still that by which finished trainings were made."""

from __future__ import annotations

import json
from typing import Any

from graft.envs.core.parts import source_hash
from graft.envs.factory import modules
from graft.errors import GraftError
from graft.experiments.patching.prepare import Patch
from graft.experiments.store.records import BUILDS, Store, write_json


def check_builds(patch: Patch, store: Store) -> None:
    """Raises GraftError where a build's code has changed since a training was finished, which would be reused.

    Stages' ids tell keyword arguments apart, but not the code of a game. A stage that has not finished starts over by
    itself. Folders without the record are taken as they are.
    """
    path = store.out / BUILDS
    if not path.exists():
        return
    try:
        known: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        changed = _changed(known, _builds(patch))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise GraftError(f"{path} cannot be read; choose another --out.") from error
    if changed and any(store.done(stage) for stage in patch.graph.stages):
        raise GraftError(
            f"The code of the {' and the '.join(changed)} changed after trainings in {store.out} had finished; choose "
            f"another --out, or remove that folder."
        )


def record_builds(patch: Patch, store: Store) -> None:
    """Keep what `check_builds` compares."""
    write_json(store.out / BUILDS, _builds(patch))


def _builds(patch: Patch) -> dict[str, dict[str, Any]]:
    tasks = {"old": patch.old, "new": patch.new}
    return {which: {"task": task.to_json(), "sha256": source_hash(modules(task))} for which, task in tasks.items()}


def _changed(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """Builds of the same task, but of other code; the old one may be another task, on which nothing is trained."""
    known = {which: before.get(which, build) for which, build in now.items()}
    same = [which for which, build in now.items() if known[which]["task"] == build["task"]]
    return [f"{which} build" for which in same if known[which]["sha256"] != now[which]["sha256"]]
