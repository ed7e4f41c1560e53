"""Where the sources of a run come from: pretrained by the run, or checkpoints from elsewhere, and what those took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from graft.agents.pretrained import FOLDER, pretrained
from graft.errors import some
from graft.experiments.report.page.cells import is_control, targets_of
from graft.experiments.report.run_folder import Row, RunFolder


class Origin(NamedTuple):
    """A source.

    Attributes:
        given: the checkpoint as the config names it; None where the run pretrained it.
        id: of that checkpoint; None where no stage recorded it.
        packaged: whether it is one that comes with this Graft.
        steps: env steps that it took, of a seed; None where that is not recorded.
    """

    name: str
    given: str | None
    id: str | None
    packaged: bool
    steps: float | None

    def cost(self) -> str:
        """What it took, as a sentence."""
        if self.given is None:
            took = "env steps are not recorded" if self.steps is None else f"{self.steps:,.0f} env steps for each seed"
            return f"Source {self.name}: pretrained by this run; {took}."
        took = "; its env steps are not recorded" if self.steps is None else f" for {self.steps:,.0f} env steps"
        return f"Source {self.name}: a checkpoint{' that comes with Graft' * self.packaged}, trained elsewhere{took}."

    def needed(self) -> str:
        """Which checkpoint it takes to repeat the run, as a sentence."""
        where = "comes with Graft" if self.packaged else "is not in this page, and must lie there"
        which = f"{self.given}{f' (id {self.id})' if self.id else ''}"
        return f"The source is the checkpoint {which}, which {where}; `pretrain` of the config does not concern it."


def origins(run: RunFolder) -> dict[str, Origin]:
    """Name of each source of a transfer experiment -> where it comes from."""
    rows = {} if run.is_sequence else {str(row["source"]): row for row in run.rows if not is_control(row)}
    return {name: _origin(run, name, row) for name, row in rows.items()}


def _origin(run: RunFolder, name: str, row: Row) -> Origin:
    sources = run.experiment.get("config", {}).get("sources")
    known = [s for s in sources if isinstance(s, dict)] if isinstance(sources, list) else []
    # One without a name is called by its folder (`plan/sources.py`).
    named = {
        str(s.get("name") or f"checkpoint {s['checkpoint']}"): str(s["checkpoint"])
        for s in known
        if s.get("checkpoint")
    }
    given = named.get(name)
    if given is None:
        return Origin(name, None, None, False, (row["env_steps"] or {}).get("pretrain"))
    start, manifest = _start(run, row), _manifest(given)
    same = bool(manifest) and start in (None, manifest["id"])
    return Origin(name, given, start, same, manifest["record"]["env_steps"] if same else None)


def _start(run: RunFolder, row: Row) -> str | None:
    """Id of the checkpoint that a row's first stage descends from, as its stages recorded it."""
    ids = run.stages_of(row)[:1]
    first = [stage for i in ids for stage in (i, *run.sources_of(i))]
    return (run.record(first[-1]).get("spec") or {}).get("source") if first else None


def _manifest(given: str) -> Mapping[str, Any]:
    """Of a checkpoint that comes with Graft; of others nothing, as a page reads no file outside of its folder."""
    if given not in pretrained():
        return {}
    found: Mapping[str, Any] = json.loads((FOLDER / given / "manifest.json").read_text(encoding="utf-8"))
    return found


def subtitle(run: RunFolder) -> str:
    """What a run is: its sources, targets, algorithm, seeds, budget and date, as far as its folder says."""
    config, names = run.experiment.get("config", {}), list(origins(run))
    count = len(run.results["sequence"] if run.is_sequence else targets_of(run))
    tasks = f"{count} {'task' if run.is_sequence else 'target'}{'' if count == 1 else 's'}"
    seeds = [row["seeds"] for row in run.rows]
    budget = max((steps.get("transfer") or 0 for row in run.rows if (steps := row["env_steps"])), default=0)
    dates = [str(done.get("time") or "")[:10] for done in run.experiment.get("invocations", ())]
    algorithm = config.get("algorithm")
    parts = [
        f"{'from ' + some(names, 4) + ' to ' if names else 'a sequence of ' * run.is_sequence}{tasks}",
        str(algorithm.get("name") or "") if isinstance(algorithm, dict) else "",
        f"{max(seeds)} seed{'' if max(seeds) == 1 else 's'}" if seeds else "",
        f"{budget:,.0f} env steps for each transfer" if budget else "",
        dates[-1] if dates else "",
    ]
    said = ", ".join(filter(None, parts))
    return f"{said[0].upper()}{said[1:]}."
