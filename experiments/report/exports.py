"""The numbers of runs for other programs: CSV, score matrices as rliable takes them, and tables for LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graft.errors import printable
from graft.experiments.report import transfer
from graft.experiments.report.common import fixed, write_file
from graft.experiments.report.results import Interval, SequenceRow, StageCost, TransferRow
from graft.experiments.report.run_folder import Row, RunFolder
from graft.experiments.store.records import COST

Record = Mapping[str, Any]

ELSEWHERE = "choose another place"

ENDS = {"iqm": "", "low": "_low", "high": "_high"}
"""Parts of an interval -> endings of their columns."""


def write_csv(runs: Sequence[RunFolder], names: Sequence[str], folder: Path) -> list[str]:
    """Write the tables into ``folder``; returns the names of files. Raises GraftError where that is not possible.

    ``rows.csv``: the rows of ``results.json``, an interval in three columns. ``scores.csv``: each run's score.
    ``curves.csv``: each evaluation. ``stages.csv``. ``auc.npz`` and ``final.npz``: method -> scores (runs, targets),
    targets in the order of ``rows.csv``, of methods that have as many runs on each; what ``rliable`` takes.
    """
    pairs = list(zip(runs, names, strict=True))
    tables = {
        "rows.csv": [record for run, name in pairs for record in _rows(run, name)],
        "scores.csv": [record for run, name in pairs for record in _scores(run, name)],
        "curves.csv": [record for run, name in pairs for record in _curves(run, name)],
        "stages.csv": [record for run, name in pairs for record in _stages(run, name)],
    }
    files = {name: _csv(records).encode(errors="replace") for name, records in tables.items() if records}
    for kind, key in (("auc", "areas"), ("final", "finals")):
        if matrices := score_matrices(pairs, key):
            page = io.BytesIO()
            np.savez(page, **{_member(name): matrix for name, matrix in matrices.items()})
            files[f"{kind}.npz"] = page.getvalue()
    for name, data in files.items():
        write_file(folder / name, data, ELSEWHERE)
    return list(files)


def _csv(records: Sequence[Record]) -> str:
    columns = dict.fromkeys(key for record in records for key in record)
    page = io.StringIO()
    writer = csv.DictWriter(page, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return page.getvalue()


def _rows(run: RunFolder, name: str) -> Iterable[Record]:
    fields = (SequenceRow if run.is_sequence else TransferRow).model_fields
    intervals = {key for key, field in fields.items() if field.annotation == Interval | None}
    for row in run.rows:
        record: dict[str, Any] = {"run": name}
        for key, value in row.items():
            if key in intervals:
                record |= {f"{key}{ending}": None if value is None else value[end] for end, ending in ENDS.items()}
            elif key == "env_steps" and value:
                record |= {f"env_steps_{kind}": steps for kind, steps in value.items()}
            elif not isinstance(value, dict | list):
                record[key] = value
        yield record


def _scores(run: RunFolder, name: str) -> Iterable[Record]:
    for row in run.rows:
        if run.is_sequence:
            for number, matrix in enumerate(row["matrices"]):
                for task, score in zip(run.results["sequence"], matrix[-1], strict=True):
                    stages = (row["stages"] or [])[number : number + 1]
                    seed = run.seed_of(stages[0][0]) if stages else None
                    whose = {"run": name, "method": row["method"], "task": task}
                    yield {**whose, "number": number, "seed": seed, "final": score}
            continue
        ids = run.stages_of(row)
        for number, (area, final) in enumerate(zip(row["areas"] or (), row["finals"] or (), strict=True)):
            stage = ids[number] if ids else None
            seed = None if stage is None else run.seed_of(stage)
            yield {**_of(row, name), "number": number, "seed": seed, "stage": stage, "auc": area, "final": final}


def _of(row: Row, name: str) -> Record:
    return {"run": name, **{key: row[key] for key in ("source", "target", "method")}}


def _curves(run: RunFolder, name: str) -> Iterable[Record]:
    for row in run.rows if not run.is_sequence else ():
        for number, (stage, curve) in enumerate(zip(run.stages_of(row), run.curves(row), strict=False)):
            whose = {**_of(row, name), "number": number, "seed": run.seed_of(stage), "stage": stage}
            for steps, score in zip(curve.steps, curve.scores, strict=True):
                yield {**whose, "env_steps": steps, "score": score}


def _stages(run: RunFolder, name: str) -> Iterable[Record]:
    for stage in run.results["stages"]:
        columns = ("id", "kind", "label", "status", "env_steps", "seconds", "error")
        taken = {key: (stage.get(COST) or {}).get(key) for key in StageCost.model_fields}
        yield {"run": name, **{key: stage.get(key) for key in columns}, **taken}


def _member(name: str) -> str:
    """A name of an array in a ``.npz`` file: in letters that can be written, and not that of an argument of savez."""
    name = printable(name, len(name))
    return f"{name}_" if name in ("file", "allow_pickle") else name


def score_matrices(pairs: Sequence[tuple[RunFolder, str]], key: str) -> dict[str, Any]:
    """Method (and run, where there are several) -> scores (runs, targets), of targets that have a scale.

    Left out: methods with fewer runs on one target than on another, or none there.
    """
    made = {}
    for run, name in pairs:
        rows = [] if run.is_sequence else [row for row in run.rows if row["scored"] is not False and row[key]]
        targets = list(dict.fromkeys(row["target"] for row in rows))
        for method in dict.fromkeys(transfer.row_name(row, rows) for row in rows):
            found = {row["target"]: row[key] for row in rows if transfer.row_name(row, rows) == method}
            if len({len(scores) for scores in found.values()}) == 1 and len(found) == len(targets):
                matrix = np.array([found[target] for target in targets]).T
                made[f"{method}, {name}" if len(pairs) > 1 else method] = matrix
    return made


LATEX = {
    **{letter: f"\\{letter}" for letter in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "\N{EN DASH}": "--",
}
LAST_LETTER = "\u017f"
"""Of those that LaTeX knows without a package."""

UNKNOWN_LETTERS = "«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ"
"""Of those before `LAST_LETTER`, which need one: its first fonts lack them."""


def _is_known(letter: str) -> bool:
    return " " <= letter <= LAST_LETTER and letter.isprintable() and letter not in UNKNOWN_LETTERS


def latex_text(text: str) -> str:
    """Text as LaTeX shows it, on one line; a question mark for a letter that it lacks."""
    letters = (LATEX.get(x) or (x if _is_known(x) else "?") for x in text)
    return "".join(letters)


def _number(values: Mapping[str, float | None] | None, signed: bool = False) -> str:
    if values is None:
        return "--"

    def shown(value: float) -> str:
        return f"{'+' if signed and value >= 0 else ''}{fixed(value)}"

    low, high = values["low"], values["high"]
    if values["iqm"] is None:
        return "--" if low is None else f"$> {shown(low)}$"
    if low is None and high is None:
        return f"${shown(values['iqm'])}$"
    ends = [r"-\infty" if low is None else shown(low), r"\infty" if high is None else shown(high)]
    return f"${shown(values['iqm'])}\\;[{', '.join(ends)}]$"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        r"\begin{table}",
        f"\\caption{{{latex_text(caption)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\hline",
        " & ".join(head) + r" \\",
        r"\hline",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _is_empty(row: Row, key: str) -> bool:
    """Whether a number says nothing: forgetting of a method with a network for each task."""
    return key == "forgetting" and bool(row["network_per_task"])


def latex(run: RunFolder, name: str) -> str:
    """The tables of results: one for each target, or one for a sequence."""
    if run.is_sequence:
        keys = ("average_performance", "forgetting", "forward_transfer")
        rows = [
            [latex_text(row["method"]), *("--" if _is_empty(row, key) else _number(row[key]) for key in keys)]
            for row in run.rows
        ]
        head = ["method", "performance", "forgetting", "forward transfer"]
        return _table(f"{name}: {' → '.join(run.results['sequence'])}", head, rows)
    made = []
    for target in dict.fromkeys(row["target"] for row in run.rows):
        of_target = [row for row in run.rows if row["target"] == target]
        rows = [_row(row, run.rows) for row in of_target]
        unscored = any(row["scored"] is False for row in of_target)
        said = " (AUC and final are mean returns, as there is no scale)" if unscored else ""
        made.append(_table(f"{name}: {target}{said}", ["method", "AUC", "ratio", "final", "seeds", "verdict"], rows))
    return "\n".join(made)


def _row(row: Row, rows: Sequence[Row]) -> list[str]:
    final = row["final_interval"] or {"iqm": row["final"], "low": None, "high": None}
    numbers = [_number(row["auc"]), _number(row["transfer_ratio"], signed=True), _number(final)]
    return [latex_text(transfer.row_name(row, rows)), *numbers, str(row["seeds"]), row["verdict"] or "--"]


def write_latex(runs: Sequence[RunFolder], names: Sequence[str], path: Path) -> None:
    """Write the tables of all runs for ``\\input``; raises GraftError where that is not possible."""
    said = "% Interquartile means over seeds with 95 % intervals.\n\n"
    tables = [latex(run, name) for run, name in zip(runs, names, strict=True)]
    write_file(path, (said + "\n".join(tables)).encode(errors="replace"), ELSEWHERE)
