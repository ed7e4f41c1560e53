"""What ``graft inspect`` prints: facts and family of a checkpoint, checkpoints of a run, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from graft.agents.checkpoints.checkpoint import UNSPECIFIED, Checkpoint
from graft.envs.core.parts import is_named
from graft.envs.core.task import Task
from graft.errors import GraftError, some
from graft.experiments.report.schema_changes import schema_changes
from graft.experiments.store.lineage import Member, family, fault_of, members_of
from graft.transfer.method import label, parse_method

SHORT = 12  # characters of an id
GOOD = ": all files are as they were written"


def show_checkpoint(console: Console, folder: Path, search: Sequence[Path], verify: bool) -> bool:
    """Print facts and ancestors; returns whether the files that were verified are as they were written."""
    members = family(folder, search)
    last, notes = members[-1], _notes(members) if verify else {}
    if notes.get(last.id, GOOD) == GOOD:
        console.print(facts(last, Checkpoint.load(folder)))
    if len(members) > 1 or verify:
        console.print(family_tree(members, notes))
    return set(notes.values()) <= {GOOD}


def show_run(console: Console, folder: Path, search: Sequence[Path], verify: bool) -> bool:
    """The same of all checkpoints of a run."""
    members = members_of(folder, search)
    if not members:
        raise GraftError(f"No stage in {folder} has finished, so there is no checkpoint to inspect.")
    notes = _notes(members) if verify else {}
    console.print(run_tree(str(folder), members, notes))
    return set(notes.values()) <= {GOOD}


def show_differences(console: Console, first: Path, second: Path) -> bool:
    a, b = Checkpoint.load(first), Checkpoint.load(second)
    console.print(changes_table(changes(a.tensors, b.tensors), (str(first), str(second))))
    for line in difference_lines(a, b):
        console.print(line)
    return True


def _notes(members: Sequence[Member]) -> dict[str, str]:
    """What is said of each checkpoint's files, by id."""
    return {m.id: f": {fault}" if (fault := fault_of(m)) else GOOD for m in members if not m.file}


def plain(value: Any) -> str:
    """``value`` as text for a terminal: what somebody else's file says is neither markup nor a control sequence."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in str(value)))


def score(record: Mapping[str, Any]) -> str:
    """Mean return of the last evaluation with its 95 % half-width; empty where none was recorded."""
    found = record.get("evaluation") or {}
    mean, half = found.get("return_mean"), found.get("ci95")
    if mean is None:
        return ""
    return f"{mean:.4g}" + ("" if half is None else f" ± {half:.2g}")


def method_of(record: Mapping[str, Any]) -> str:
    """The transfer method's label, or its name where it is unknown here or of a module, which is not imported."""
    method = dict((record.get("stage") or {}).get("method") or {})
    name = str(method.pop("name", ""))
    try:
        return label(parse_method({name: method})) if name and not is_named(name) else name
    except GraftError:
        return name


def origin(record: Mapping[str, Any]) -> str:
    """The foreign file that a checkpoint was imported from; empty where there is none."""
    found = record.get("import") or {}
    facts = [
        str(found[key]) for key in ("file", "format", "library", "version", "algorithm", "origin") if found.get(key)
    ]
    return ", ".join([*facts, f"sha256 {found['sha256']}"]) if found else ""


def merger(record: Mapping[str, Any]) -> str:
    """What a checkpoint was merged from, and how; empty where it was not."""
    found = record.get("merge") or {}
    names = " and ".join(parent["id"][:SHORT] for parent in found.get("parents", ()))
    options = "".join(f", {key} {value}" for key, value in (found.get("options") or {}).items())
    return f"{names} by {found.get('method')}{options}; base {str(found.get('base'))[:SHORT]}" if found else ""


def name(member: Member) -> str:
    """A line for one checkpoint: what made it, its score, its cost, and where it is."""
    if member.file:
        return f"the file {member.file}  ({member.id[:SHORT]})"
    if not member.manifest:
        return f"{member.id[:SHORT]}: {'cannot be read' if member.fault else 'not found'}"
    record = member.record
    made = member.stage.get("label") or method_of(record) or str(Task.from_json(member.manifest["task"]))
    if record.get("merge"):
        made = f"merged from {merger(record)}"
    parts = [str(made)]
    if text := score(record):
        parts.append(f"return {text}")
    if steps := record.get("env_steps"):
        parts.append(f"{steps:,} env steps")
    if (seconds := member.stage.get("seconds")) is not None:
        parts.append(f"{seconds:,.0f} s")
    return f"{', '.join(parts)}  ({member.id[:SHORT]}, {member.folder})"


def facts(member: Member, checkpoint: Checkpoint) -> Table:
    """All that a checkpoint's manifest says of it, a row for each."""
    record, stage = member.record, member.record.get("stage") or {}
    shown, played = checkpoint.schemas.observation, checkpoint.schemas.action
    network, values = checkpoint.network, sum(t.numel() for t in checkpoint.tensors.values())
    versions, git = record.get("versions") or {}, record.get("git") or {}
    dirty = " (with uncommitted changes)" if git.get("dirty") else ""
    rows: dict[str, Any] = {
        "id": checkpoint.id,
        "task": f"{checkpoint.task.id} {_options(checkpoint.task.kwargs)}",
        "observations": f"{shown.kind}, {len(shown.names)}: {some(shown.names, 12)}",
        "actions": f"{played.kind}, {len(played.names)}: {some(played.names, 12)}",
        "network": f"{network.encoder} {_options(network.options)}, head {list(network.head)}, {values:,} values",
        "further parts": ", ".join(sorted(checkpoint.parts)),
        "method": method_of(record),
        "transplant": record.get("transplant"),
        "algorithm": _options(stage.get("algorithm") or {}),
        "seed": stage.get("seed"),
        "env steps": f"{record['env_steps']:,}" if record.get("env_steps") is not None else None,
        "return": score(record) and f"{score(record)} in {record['evaluation']['episodes']} episodes",
        "seconds": member.stage.get("seconds"),
        "faults": record.get("faults"),
        "imported from": origin(record),
        "merged from": merger(record),
        "licence": (record.get("licence") or UNSPECIFIED)
        + (", used although it allows no derivatives" if record.get("licence_overridden") else ""),
        "created": record.get("created"),
        "made by": ", ".join(f"{library} {versions[library]}" for library in ("graft", "torch") if library in versions),
        "commit": git.get("commit") and f"{git['commit'][:SHORT]}{dirty}",
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        if value not in (None, "", {}, []):
            table.add_row(key, plain(value))
    return table


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def family_tree(members: Sequence[Member], notes: Mapping[str, str]) -> Tree:
    """Ancestors above, each below what it was made from; ``notes`` by id are put behind the lines."""
    return _tree("from its root to this checkpoint:", members, notes)


def run_tree(title: str, members: Sequence[Member], notes: Mapping[str, str]) -> Tree:
    """A run's checkpoints, each below the one it was made from."""
    return _tree(plain(title), members, notes)


def _tree(title: str, members: Sequence[Member], notes: Mapping[str, str]) -> Tree:
    """A merged one is below each of its parents, and what was made from it below the first of them."""
    top, here = Tree(title), {member.id for member in members}
    below: dict[str | None, list[Member]] = {}
    for member in members:
        above: list[str | None] = [one for one in member.parents if one in here]
        for parent in above or [None]:
            below.setdefault(parent, []).append(member)
    shown = set[str]()
    waiting = [(top, member) for member in reversed(below.get(None, ()))]
    while waiting:  # no recursion: a stranger's lineage may be thousands long
        to, member = waiting.pop()
        again = " (as above)" if member.id in shown else notes.get(member.id, "")
        branch = to.add(plain(name(member) + again))
        if member.id not in shown:
            shown.add(member.id)
            waiting += [(branch, child) for child in reversed(below.get(member.id, ()))]
    return top


class Change(NamedTuple):
    """How a tensor differs between two checkpoints.

    ``relative``: ‖b − a‖ / ‖a‖, infinite where a is 0. ``cosine``: of the angle between them, 0 where one is 0. Both
    are None where the tensor is in one of them only, or has another shape.
    """

    tensor: str
    shapes: str
    relative: float | None = None
    cosine: float | None = None


def changes(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[Change]:
    """Every tensor of two groups, by name."""
    return [_change(tensor, a.get(tensor), b.get(tensor)) for tensor in sorted({*a, *b})]


def _change(tensor: str, a: torch.Tensor | None, b: torch.Tensor | None) -> Change:
    if a is None or b is None or a.shape != b.shape:
        shapes = ["-" if t is None else "x".join(map(str, t.shape)) or "1" for t in (a, b)]
        return Change(tensor, " → ".join(shapes))
    x, y = a.double().flatten(), b.double().flatten()
    moved, size = float((y - x).norm()), float(x.norm())
    relative = moved / size if size else (0.0 if not moved else float("inf"))
    both = size * float(y.norm())
    return Change(tensor, "x".join(map(str, a.shape)) or "1", relative, float(x @ y) / both if both else 0.0)


def differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys at which two JSON values differ, with both values; None where one lacks the key."""
    if isinstance(a, dict) and isinstance(b, dict):
        for inner in dict.fromkeys([*a, *b]):
            yield from differences(a.get(inner), b.get(inner), f"{key}.{inner}" if key else inner)
    elif a != b:
        yield key, a, b


def changes_table(found: Iterable[Change], titles: tuple[str, str]) -> Table:
    table = Table(title=plain(f"weights: {titles[0]} → {titles[1]}"))
    for heading, side in (("tensor", "left"), ("shape", "left"), ("change / norm", "right"), ("cosine", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for change in found:
        numbers = ["" if v is None else f"{v:.3g}" for v in (change.relative, change.cosine)]
        table.add_row(plain(change.tensor), change.shapes, *numbers)
    return table


def difference_lines(a: Checkpoint, b: Checkpoint) -> list[str]:
    """How two checkpoints differ in names of observations and actions, task, network, and the stage's options."""
    lines = [f"{one.what}, {one.change}: {one.text}" for one in schema_changes(a.schemas, b.schemas)]
    for what, before, after in (("task", a.task, b.task), ("network", a.network, b.network)):
        lines += [f"{what}.{k}: {x} → {y}" for k, x, y in differences(before.to_json(), after.to_json())]
    first, second = (checkpoint.record.get("stage") or {} for checkpoint in (a, b))
    skipped = ("task.", "network.", "source")
    lines += [f"{k}: {x} → {y}" for k, x, y in differences(first, second) if not k.startswith(skipped)]
    return [plain(line) for line in lines]
