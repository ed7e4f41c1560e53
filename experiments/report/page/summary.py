"""What a report says first: which method is best on each target and what it cost, and all warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graft.experiments.report import continual, transfer
from graft.experiments.report.common import (
    TWO_GROUPS,
    audit_notes,
    clip_notes,
    evaluation_notes,
    failed_notes,
    fixed,
    format_score,
    resume_notes,
    seed_notes,
    unfinished_notes,
)
from graft.experiments.report.page.cells import (
    NONE,
    Cell,
    Table,
    count_of,
    is_baseline,
    is_control,
    middle,
    name,
    named,
    number,
    plus,
    rows_of,
    score,
    targets_of,
    verdict,
    without_empty,
)
from graft.experiments.report.page.origin import origins
from graft.experiments.report.run_folder import Row, RunFolder
from graft.transfer import METHODS


class Best(NamedTuple):
    """The row of a target with the largest area among those that are surely better than scratch, if any are, else
    among all; and the largest of the others.
    """

    target: str
    row: Row
    next: Row | None


def best_rows(run: RunFolder) -> list[Best]:
    """Of each target of a transfer experiment."""
    found = []
    for target in targets_of(run):
        rows = sorted(rows_of(run, target), key=lambda row: -middle(row["auc"]))
        best = next((row for row in rows if row["verdict"] == "positive"), rows[0])
        found.append(Best(target, best, next((row for row in rows if row is not best), None)))
    return found


class Summary(NamedTuple):
    """What a reader looks for first."""

    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()


def summary(run: RunFolder) -> Summary:
    """Which method is best on each target and what it cost, in plain words."""
    if not run.rows:
        return Summary()
    if run.is_sequence:
        return Summary(_sequence_summary(run))
    best = best_rows(run)
    seeds = sorted({row["seeds"] for row in run.rows})
    few = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    notes = [
        f"Best: the highest mean score over training (AUC) of {few} seeds, among methods that are surely better than "
        f"scratch where there are any. Lead: over the second mean, and whether their 95 % intervals are apart. Env "
        f"steps and core seconds: of a transfer, for each seed. "
        f"{transfer.score_words(run.rows)}",
        *(origin.cost() for origin in origins(run).values()),
    ]
    sentences = [*_winners(run, best), *_worse(run), *_ends_higher(run, best), *_not_sure(run, best)]
    return Summary(sentences, [_best_table(run, best)._replace(notes=notes), _methods_table(run)])


def _winners(run: RunFolder, best: Sequence[Best]) -> list[str]:
    """A sentence for each method that is best anywhere, the most frequent first."""
    groups: dict[str, list[Best]] = {}
    for found in best:
        groups.setdefault(named(found.row, run.rows), []).append(found)
    return [_winner(run, *group, len(best)) for group in sorted(groups.items(), key=lambda group: -len(group[1]))]


def _winner(run: RunFolder, method: str, on: Sequence[Best], targets: int) -> str:
    where = f"on {len(on)} of {targets} targets" if targets > 1 else f"on {on[0].target}"
    which = f" ({_listed(on)})" if len(on) < targets else ""
    if all(found.next is None for found in on):
        return f"{method} is all that has finished {where}{which}, so nothing is compared yet."
    if is_baseline(on[0].row):
        some = any(not is_control(row) for found in on for row in rows_of(run, found.target))
        return f"scratch has the highest mean {where}{which}; no transfer has {'a higher one' if some else 'finished'}."
    sure = [found for found in on if found.row["verdict"] == "positive"]
    if len(sure) == len(on):
        return f"{method} is best {where}{which}, surely better than training from scratch{' on all' * (len(on) > 1)}."
    few = all(found.row["p_value"] is None for found in on)
    if not sure:
        said = "of too few seeds to say more" if few else "but is not surely better than training from scratch"
        return f"{method} has the highest mean {where}{which}, {said}."
    unsure = [found for found in on if found not in sure]
    return (
        f"{method} is best {where}{which}, surely better than training from scratch on {len(sure)} of them "
        f"(not on {_listed(unsure)})."
    )


def _listed(found: Sequence[Best]) -> str:
    return ", ".join(best.target for best in found)


def _worse(run: RunFolder) -> list[str]:
    """A sentence for each method that is surely worse than scratch somewhere; controls are there to be beaten."""
    groups: dict[str, list[str]] = {}
    for row in run.rows:
        if row["verdict"] == "negative" and not is_control(row):
            groups.setdefault(transfer.row_name(row, run.rows), []).append(row["target"])
    return [f"{method} hurts on {', '.join(targets)}: surely worse than scratch." for method, targets in groups.items()]


def _ends_higher(run: RunFolder, best: Sequence[Best]) -> list[str]:
    """A sentence where another method has a higher score at the end of training."""
    said = []
    for found in best:
        last = max(rows_of(run, found.target), key=lambda row: float(row["final"]))
        if fixed(last["final"]) != fixed(found.row["final"]):
            ends = f"{fixed(last['final'])} against {fixed(found.row['final'])}"
            said.append(f"{found.target} ({named(last, run.rows)}: {ends})")
    return [f"Another method ends higher, in the last tenth of training, on {', '.join(said)}."] if said else []


def _not_sure(run: RunFolder, best: Sequence[Best]) -> list[str]:
    """A sentence for each target on which a mean is higher than that of the best."""
    return [
        f"On {found.target} the mean of {named(found.next, run.rows)} ({format_score(found.next['auc'])}) is higher, "
        f"but it is not surely better than training from scratch."
        for found in best
        if found.next is not None and middle(found.next["auc"]) > middle(found.row["auc"])
    ]


def _best_table(run: RunFolder, best: Sequence[Best]) -> Table:
    head = ["target", "best method", "mean score", "scratch's", "verdict", "lead over the second", "env steps"]
    lines = []
    for found in best:
        row, base = found.row, next(filter(is_baseline, rows_of(run, found.target)), None)
        steps, seconds = (row["env_steps"] or {}).get("transfer"), own_seconds(run, row)
        lines.append(
            [
                name(found.target),
                Cell(named(row, run.rows), tone="name best" if row["verdict"] == "positive" else "name"),
                score(row["auc"]),
                score(base["auc"]) if base else NONE,
                verdict(row),
                _lead(found),
                number(steps, f"{most(run, row)}{count_of(steps)}"),
                number(seconds, f"{seconds or 0:,.0f}"),
            ]
        )
    return without_empty(Table("The best method on each target", [*head, "core seconds"], lines))


def _lead(best: Best) -> Cell:
    first, other = best.row["auc"], best.next and best.next["auc"]
    if not first or not other or first["iqm"] is None or other["iqm"] is None:
        return NONE
    lead = first["iqm"] - other["iqm"]
    if first["low"] is None or other["high"] is None:
        return Cell(plus(lead), (lead,))
    return Cell(f"{plus(lead)}, {'apart' if first['low'] > other['high'] else 'overlap'}", (lead,))


def own_seconds(run: RunFolder, row: Row) -> float | None:
    """Core seconds of a row's transfers, mean over seeds; of an older Graft, which took the clock's, those."""
    if row["cost"] is not None:
        return float(row["cost"]["own"]["core_seconds"])
    ids = run.stages_of(row)
    return sum(map(run.seconds, ids)) / len(ids) if ids else None


def most(run: RunFolder, row: Row) -> str:
    """Before env steps of a row, which are those of the seed that took most."""
    taken = {stage["id"]: stage["env_steps"] for stage in run.results["stages"]}
    seeds = [[stage] if isinstance(stage, str) else stage for stage in row["stages"] or ()]  # a sequence's have several
    return "at most " if len({sum(taken.get(i, 0) for i in ids) for ids in seeds}) > 1 else ""


def _methods_table(run: RunFolder) -> Table:
    """A line for each kind of method that comes with Graft: the first of its description."""
    found = {row["method"].partition("(")[0]: is_control(row) for row in run.rows}
    lines = [
        [name(f"{method}{' (control)' if control else ''}"), Cell(_first_line(METHODS[method].__doc__ or ""))]
        for method, control in found.items()
        if method in METHODS
    ]
    return Table("What the methods do", ["method", "what it does"], lines, numbers=False)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].replace("``", "")


def _sequence_summary(run: RunFolder) -> list[str]:
    single = [row for row in run.rows if not row["network_per_task"]]
    if not single:
        return []
    best = max(single, key=lambda row: middle(row["average_performance"]))
    steps = best["env_steps"] or {}
    more = f" and {count_of(steps['consolidation'])} of consolidation" if steps.get("consolidation") else ""
    return [
        f"{best['method']} has the highest mean at the end, of methods with one network for all tasks: its score over "
        f"the tasks is {format_score(best['average_performance'], ' to ')}; it forgot "
        f"{format_score(best['forgetting'], ' to ')} of each earlier task. It took {count_of(steps.get('training'))} "
        f"env steps of training{more} for each seed."
    ]


SEEN = "Switch on single seeds in the learning curves to see them."


def _uncompared(run: RunFolder) -> list[str]:
    """A sentence where runs on a target have finished, but none of scratch, and where none has."""
    done = [stage["label"] for stage in run.results["stages"] if stage["status"] == "done"]
    missing = [target for target in run.results["bounds"] if target not in targets_of(run)]
    alone = [target for target in missing if any(f" · {target} · seed " in label for label in done)]
    none = [target for target in missing if target not in alone]
    lines = []
    if alone:
        lines.append(
            f"No table of {', '.join(alone)}: no run of scratch has finished there, with which all are compared; its "
            f"other runs are in the folder's stages."
        )
    if none:
        lines.append(f"No table of {', '.join(none)}: no run has finished there.")
    return lines


def _without_scratch(run: RunFolder) -> list[str]:
    """A sentence where no run of scratch has finished a sequence."""
    if not run.rows or any(row["forward_transfer"] or row["intransigence"] for row in run.rows):
        return []
    return ["No forward transfer and no intransigence: no run of scratch has finished, with which all are compared."]


def warnings(run: RunFolder) -> list[str]:
    """All that a reader must know before the numbers."""
    data = run.results
    if run.is_sequence:
        split = [row["method"] for row in run.rows if row["bimodal"]]
        groups = [f"{', '.join(split)}: {TWO_GROUPS}"] if split else []
        scales = continual.scale_notes(data)
        own = _without_scratch(run)
    else:
        own = [*transfer.negative_notes(run.rows), *_uncompared(run)]
        counts = [row["evaluations"] for row in run.rows if row["evaluations"] is not None]
        groups = [*evaluation_notes(counts), *transfer.bimodal_notes(run.rows, SEEN)]
        scales = transfer.scale_notes(data)
    lines = [*own, *failed_notes(data), *unfinished_notes(data), *groups, *seed_notes(run.rows)]
    lines += [*clip_notes(data), *audit_notes(data), *resume_notes(data), *scales]
    if not run.rows and not any("no run of scratch" in line for line in own):
        lines.append("No comparison has finished yet; the table of stages says how far they are.")
    elif not run.is_sequence and not any(run.curves(row) for row in run.rows):
        lines.append("No learning curves: the folder has no stages, or its results were written by an older Graft.")
    return lines
