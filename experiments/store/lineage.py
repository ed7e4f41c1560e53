"""The checkpoints that one descends from, and whether all their files are as they were written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, read_manifest
from graft.errors import GraftError
from graft.experiments.store.records import Store

STAGES, CHECKPOINT = "stages", "checkpoint"


@dataclass(frozen=True)
class Member:
    """A checkpoint, or the id of one that was not found.

    Attributes:
        id: sha256 of its manifest; the folder's name where that cannot be read. folder: where it is; None where it was
            not found.
        manifest: {} where it was not found or cannot be read. stage: the ``stage.json`` of the stage that made it; {}
            where it is of no run.
        file: name of the foreign file that this is, which a checkpoint was imported from; empty for checkpoints.
        fault: why the manifest or the stage's record cannot be read; empty where they can.
    """

    id: str
    folder: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    stage: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    fault: str = ""

    @classmethod
    def read(cls, folder: Path) -> Member:
        try:
            manifest = read_manifest(folder)
            store = _store(folder)
            stage = None if store is None else store.record(folder.resolve().parent.name)
        except GraftError as error:
            return cls(folder.resolve().parent.name if _store(folder) else folder.name, folder, fault=str(error))
        return cls(manifest["id"], folder, manifest, stage or {})

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of what it was made from; none where it was not found.

        What other checkpoints hand on does not say it: ancestors of one that was merged are in one line there.
        """
        if merge := self.record.get("merge"):
            return tuple(dict.fromkeys(parent["id"] for parent in merge["parents"]))
        return tuple(self.manifest.get("lineage", ())[:1])

    @property
    def imported(self) -> str | None:
        """sha256 of the foreign file that it was imported from; None where it was not."""
        found = self.record.get("import")
        return str(found["sha256"]) if found else None

    @property
    def record(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest.get("record", {})
        return found


def _store(folder: Path) -> Store | None:
    """The run that the checkpoint in ``folder`` was made by, where it still lies in it."""
    whole = folder.resolve()
    return Store(whole.parents[2]) if whole.name == CHECKPOINT and whole.parents[1].name == STAGES else None


def is_run(folder: Path) -> bool:
    return (folder / STAGES).is_dir()


def members_of(run: Path, search: Iterable[Path] = ()) -> list[Member]:
    """The checkpoints of a run's finished stages, in the order in which they were made.

    One that is missing, or whose ancestors are, has a fault. Args as of `family`.
    """
    store, found = Store(run), []
    for folder in sorted((run / STAGES).iterdir()):
        made = (folder / CHECKPOINT / MANIFEST).exists()
        if made and not (folder / "stage.json").exists():
            found.append(replace(Member.read(folder / CHECKPOINT), fault="its stage.json is missing"))
        elif made or _is_done(store, folder.name):
            found.append(Member.read(folder / CHECKPOINT))
    known = {member.id for member in found}
    for path in _manifests(search):
        known.add(Member.read(path.parent).id)
    for i, member in enumerate(found):
        gone = [one for one in member.manifest.get("lineage", ()) if one not in known and one != member.imported]
        if gone and not member.fault:
            found[i] = replace(
                member, fault=f"{', '.join(one[:12] for one in gone)}, which it comes from, was not found"
            )
    return sorted(found, key=lambda member: str(member.record.get("created", "")))


def _is_done(store: Store, stage_id: str) -> bool:
    try:
        record = store.record(stage_id)
    except GraftError:
        return True  # and its fault is said
    return record is not None and record["status"] == "done"


def _manifests(search: Iterable[Path]) -> Iterator[Path]:
    """Manifests in folders, at any depth, but those of snapshots and of checkpoints that are being written."""
    for place in search:
        if not place.is_dir():
            raise GraftError(f"There is no folder {place} to search.")
        for path in sorted(place.rglob(MANIFEST)):
            if not path.parent.name.startswith(".") and path.parent.parent.name != "snapshot":
                yield path


def family(folder: Path, search: Iterable[Path] = ()) -> list[Member]:
    """The checkpoint in ``folder`` and all it descends from, the root first.

    Args:
        search: further folders in which ancestors may lie, at any depth; those of its own run are found without.
    Raises:
        GraftError: a folder that is not there, or a checkpoint whose manifest is missing or was altered.
    """
    last = Member.read(folder)
    if last.fault:
        raise GraftError(last.fault)
    lineage: list[str] = list(last.manifest["lineage"])
    store = _store(folder)
    here = [] if store is None else sorted((store.out / STAGES).glob(f"*/{CHECKPOINT}/{MANIFEST}"))
    known: dict[str, Member] = {}
    for path in chain(here, _manifests(search)):
        if set(lineage) <= known.keys():
            break
        member = Member.read(path.parent)
        known.setdefault(member.id, member)
    for member in [*known.values(), last]:
        if member.imported:
            known[member.imported] = Member(member.imported, file=str(member.record["import"].get("file")))
    return [*(known.get(i, Member(i)) for i in reversed(lineage)), last]


def fault_of(member: Member) -> str:
    """What is wrong with a checkpoint's files and its stage's, by their hashes; empty where all is right."""
    if member.file:
        return ""
    if member.folder is None:
        return "not checked, as it was not found; --search DIR says where else to look"
    if member.fault:
        return member.fault
    try:
        Checkpoint.load(member.folder)
        store = _store(member.folder)
        if store is not None and member.stage.get("status") == "done":
            store.done(member.folder.resolve().parent.name)
            said = member.stage.get("spec"), member.stage.get("env_steps")
            if said != (member.record.get("stage"), member.record.get("env_steps")):
                return "its stage.json says something else than its manifest"
    except GraftError as error:
        return str(error)
    return ""
