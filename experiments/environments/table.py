"""The survey's table: results as Markdown between two marks of a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.experiments.environments.entries import Entry, Package

BEGIN, END = "<!-- survey: begin -->", "<!-- survey: end -->"
HEADER = (
    "| environment | version, latest release | shows; actions | beside a plain loop | small transfer | returns |",
    "| --- | --- | --- | --- | --- | --- |",
)


def markdown(packages: Mapping[str, Package], results: Mapping[str, Any]) -> str:
    """A section for each field, a row for each environment; those without a result are marked ``not run``."""
    lines: list[str] = []
    for field in dict.fromkeys(package.field for package in packages.values()):
        lines += ["", f"### {field[0].upper()}{field[1:]}", "", *HEADER]
        for name, package in packages.items():
            if package.field == field:
                lines += _rows(name, package, results)
    return "\n".join(lines).strip()


def counts(packages: Mapping[str, Package], results: Mapping[str, Any]) -> str:
    """How many environments and packages were tried, and with what result."""
    tried = [(name, entry) for name, package in packages.items() for entry in package.environments]
    found = [(name, results[entry.key]) for name, entry in tried if entry.key in results]
    equal = [name for name, r in found if r.get("play", {}).get("result", "").startswith("equal")]
    moved = [name for name, r in found if "returns" in r.get("transfer", {})]
    return (
        f"{len(found)} environments of {len({name for name, _ in found})} packages: {len(equal)} play as their library "
        f"does, in {len(moved)} a transfer ran through."
    )


def write_page(page: Path, packages: Mapping[str, Package], results: Mapping[str, Any]) -> None:
    """Replace what is between the marks of ``page``; raises GraftError where it has none."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise GraftError(f"{page} cannot be read: {error}.") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise GraftError(f"{page} has no '{BEGIN}' and '{END}' to write the table between.")
    table = f"{counts(packages, results)}\n\n{markdown(packages, results)}"
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def _rows(name: str, package: Package, results: Mapping[str, Any]) -> list[str]:
    if package.reason:
        return [_line(f"{name}", _state(package, {}), "", _cell(package.reason), "", "")]
    return [_row(package, entry, results.get(entry.key)) for entry in package.environments]


def _row(package: Package, entry: Entry, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return _line(f"`{entry.key}`", _state(package, {}), "", "not run", "", "")
    spaces = f"{found['observation']}; {found['action']}" if "observation" in found else ""
    play, moved = _play(found), _moved(found)
    problem = _problem(found)
    if problem and "play" in found:
        moved = problem
    elif problem:
        play = problem
    notes = f" {entry.note}" if entry.note else ""
    return _line(f"`{entry.key}`", _state(package, found), spaces, play + notes, moved, _returns(found))


def _state(package: Package, found: Mapping[str, Any]) -> str:
    return ", ".join(part for part in (found.get("version", ""), package.released) if part)


def _problem(found: Mapping[str, Any]) -> str:
    for kind in ("install", "error", "traceback"):
        if kind in found:
            words = {"install": "does not install: ", "error": "refused: ", "traceback": "fails: "}[kind]
            return words + _cell(found[kind])
    return "" if "timeout" not in found else f"took longer than {found['timeout']} s"


def _play(found: Mapping[str, Any]) -> str:
    if "play" not in found:
        return ""
    play = found["play"]
    extra = f", faults: {play['faults']}" if play["faults"] else ""
    extra += f", {play['clipped']} clipped" if play["clipped"] else ""
    return f"{play['result']} ({play['steps']} steps, {_episodes(play['episodes'])}{extra})"


def _episodes(count: int) -> str:
    return f"{count} episode{'' if count == 1 else 's'}"


def _moved(found: Mapping[str, Any]) -> str:
    if "carried" not in found.get("transfer", {}):
        return ""
    moved = found["transfer"]
    return f"to `{moved['target']}`: {moved['carried']} carried, {moved['fresh']} fresh"


def _returns(found: Mapping[str, Any]) -> str:
    moved = found.get("transfer", {})
    if "returns" not in moved:
        return ""
    source, target = (" → ".join(f"{number:.4g}" for number in moved[key]) for key in ("source", "returns"))
    return f"{source}; {target}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").replace("<", "&lt;").replace(">", "&gt;").split())


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
