"""``report.html``: the results of one run or several as one file, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from graft import __version__
from graft.errors import GraftError
from graft.experiments.report import comparison
from graft.experiments.report.common import write_file
from graft.experiments.report.page import charts, costs, curves, results, stages
from graft.experiments.report.page.cells import EXPLAINED, Cell, Section, Table
from graft.experiments.report.page.origin import origins, subtitle
from graft.experiments.report.page.summary import Summary, summary, warnings
from graft.experiments.report.run_folder import RunFolder

REPORT = "report.html"

TEMPLATES = Path(__file__).parent / "templates"

CLIP_BYTES = 3_000_000
"""Of all clips in a page together, before they are encoded; what does not fit stays in its folder."""


class Clip(NamedTuple):
    """A GIF of agents at play. ``data``: as a URL; None where it is too large for the page."""

    name: str
    data: str | None


class RunPart(NamedTuple):
    """A run in the page."""

    key: str
    name: str
    folder: str
    subtitle: str
    summary: Summary
    warnings: Sequence[str]
    sections: Sequence[Section]
    clips: Sequence[Clip]
    config: str
    config_url: str
    repeat: str
    needs: Sequence[str]
    commands: Sequence[str]
    made_with: str
    file: str
    defaults: str


def write_page(runs: Sequence[RunFolder], names: Sequence[str], path: Path) -> None:
    """Write a page about these runs, each under a name of its folder; raises GraftError where that is not possible."""
    write_file(path, _bytes(page(runs, names)), "choose another --html")


def _bytes(text: str) -> bytes:
    """As UTF-8, with a question mark for what it cannot have, such as half of a pair of surrogates."""
    return text.encode(errors="replace")


def folder_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder, its last part where that tells them apart."""
    last = [folder.resolve().name for folder in folders]
    return [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders, strict=True)]


def page(runs: Sequence[RunFolder], names: Sequence[str]) -> str:
    """The page's HTML; runs of one experiment stand together."""
    order = {name: i for i, name in enumerate(dict.fromkeys(run.name for run in runs))}
    pairs = sorted(zip(runs, names, strict=True), key=lambda pair: order[pair[0].name])
    budget, parts = CLIP_BYTES, []
    for number, (run, folder) in enumerate(pairs):
        clips, budget = _clips(run, budget)
        parts.append(_part(f"run{number + 1}", run, folder, clips))
    return render(
        "report.html",
        title=", ".join(dict.fromkeys(part.name for part in parts)),
        runs=parts,
        beside=_side_by_side(pairs),
        version=__version__,
    )


def render(template: str, **values: Any) -> str:
    """The HTML of a template of this folder, with the style and the script that all share."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            charts=charts,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    """Of the template, which writes all that it is given as text, so that names of others are no markup."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breaks"] = _breaks
    made.globals["explained"] = EXPLAINED
    return made


def _breaks(text: str) -> Markup:
    """A name that lines may break where a reader would, after its signs and before brackets; options are small."""
    name, bracket, options = text.partition("(")
    first, rest = (Markup("<wbr>").join(re.split(r"(?<=[_:/,=])(?=\w)", part)) for part in (name, bracket + options))
    return first + (Markup("<wbr><small>{}</small>").format(rest) if rest else Markup(""))


def _part(key: str, run: RunFolder, folder: str, clips: Sequence[Clip]) -> RunPart:
    config = run.experiment.get("config")
    text = "" if config is None else yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    plain = _file_name(run.name)
    file, version = f"{plain}.yaml", run.experiment.get("versions", {}).get("graft")
    commands = [shlex.join(map(str, done["command"])) for done in run.experiment.get("invocations", ())]
    return RunPart(
        key,
        run.name,
        folder,
        subtitle(run),
        summary(run),
        warnings(run),
        sections(run),
        clips,
        text,
        f"data:text/yaml;base64,{base64.b64encode(_bytes(text)).decode()}",
        shlex.join(["graft", "run", file, "--out", f"runs/{plain}"]),
        [origin.needed() for origin in origins(run).values() if origin.given],
        list(dict.fromkeys(commands)),
        _made_with(run),
        file,
        f"Graft {version}" if version else "the Graft that made it",
    )


def _file_name(name: str) -> str:
    """A name of a run as one of a file: no path leads out of where it is saved."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


def _made_with(run: RunFolder) -> str:
    versions, git = run.experiment.get("versions", {}), run.experiment.get("git") or {}
    said = [
        f"{library} {versions[library]}" for library in ("graft", "python", "torch", "numpy") if library in versions
    ]
    if git.get("commit"):
        said.append(f"commit {git['commit']}{' with changes' if git.get('dirty') else ''}")
    return ", ".join(said)


def _clips(run: RunFolder, budget: int) -> tuple[list[Clip], int]:
    """A run's clips, and what of ``budget`` is left."""
    found = []
    for path in sorted(filter(Path.is_file, run.path.glob("clip_*.gif"))):
        data = None
        try:
            size = path.stat().st_size
            if size <= budget:
                budget -= size
                data = f"data:image/gif;base64,{base64.b64encode(path.read_bytes()).decode()}"
        except OSError as error:
            raise GraftError(f"{path} can't be read ({error.strerror}); mend its permissions, or delete it.") from error
        found.append(Clip(path.name, data))
    return found, budget


class Beside(NamedTuple):
    """Runs compared: what a reader must know before, and the tables."""

    warnings: Sequence[str]
    section: Section


def _side_by_side(pairs: Sequence[tuple[RunFolder, str]]) -> Beside | None:
    """Every other run of transfers beside the first: its ratios and areas, and why they may not compare.

    The warnings of the runs themselves come with them, as a reader must know them before these tables.
    """
    ended = [(run, name) for run, name in pairs if (run.path / "results.json").is_file()]
    transfers = [(run, name) for run, name in ended if not run.is_sequence and run.rows]
    tables, notes = [], list[str]()
    for run, name in transfers[1:]:
        first, other = (comparison.read(folder.path) for folder in (transfers[0][0], run))
        names = (transfers[0][1], name)
        if not first.rows.keys() & other.rows.keys():
            notes.append(f"{names[0]} and {name} have no method on the same target in common.")
            continue
        found = comparison.pairs(first.rows, other.rows)
        notes += comparison.warnings(first, other, names)
        head, *lines = comparison.table(found, *names)
        several = len({source for source, _, _ in found if source is not None}) > 1
        cells = [
            [Cell(f"{method}{f' from {source}' if several and source else ''} on {target}"), *map(Cell, rest)]
            for (source, target, method), (_, _, *rest) in zip(found, lines, strict=True)
        ]
        said = [comparison.summary(found, "transfer_ratio", "Ratios"), comparison.summary(found, "auc", "Areas")]
        tables.append(Table(f"{names[0]} and {name}", ["method", *head[2:]], cells, said))
    if not tables and not notes:
        return None
    notes += [f"{name}: {warning}" for run, name in pairs for warning in warnings(run)]
    return Beside(notes, Section("Runs side by side", tables=tables))


def sections(run: RunFolder) -> list[Section]:
    """All parts of a run that have something to say, in the order of the page."""
    if not run.rows:
        made = [curves.running(run), costs.costs(run)]
    else:
        kinds = (results.headline, curves.running, curves.curves, results.ratios, curves.profiles, results.kept)
        others = (results.heat_maps, stages.transplants, stages.diagnostics, costs.costs)
        made = [kind(run) for kind in (*kinds, *others)]
    return [section for section in made if section is not None]
