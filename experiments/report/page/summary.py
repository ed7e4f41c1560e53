"""What a report says first: which method is best on each target and what it cost, and all warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graft.experiments.report import continual, transfer
from graft.experiments.report.common import (
    TWO_GROUPS,
    clip_notes,
    evaluation_notes,
    failed_notes,
    format_score,
    resume_notes,
    seed_notes,
    unfinished_notes,
)
from graft.experiments.report.page.cells import count_of, is_baseline, is_control, middle, rows_of, targets_of
from graft.experiments.report.run_folder import Row, RunFolder
from graft.transfer.metrics import break_even


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


class Sentence(NamedTuple):
    """What is best on a task: the words that stand out, and what follows."""

    lead: str
    text: str


def summary(run: RunFolder) -> list[Sentence]:
    """Which method is best on each target and what it cost, in plain words."""
    return _sequence_summary(run) if run.is_sequence else [_best_sentence(run, best) for best in best_rows(run)]


def _best_sentence(run: RunFolder, best: Best) -> Sentence:
    row, rows = best.row, run.rows
    scale = "the best of this experiment" if row["estimated"] else "an expert"
    unit = f"score (0 is a random policy, 1 {scale})" if row["scored"] is not False else "return"
    mean = f"Its mean {unit} over training is {format_score(row['auc'], ' to ')}."
    return Sentence(
        f"{best.target}: {transfer.row_name(row, rows)}",
        f"{_judged(run, row)} {mean} It took {_price(run, row)} {_lead(best, rows)}",
    )


def _judged(run: RunFolder, row: Row) -> str:
    control = " It is a control, which uses no source." if is_control(row) and not is_baseline(row) else ""
    others = [other for other in rows_of(run, row["target"]) if other is not row]
    if not others:
        return "is all that has finished, so nothing is compared yet."
    if is_baseline(row):
        some = any(not is_control(other) for other in others)
        return f"has the highest mean; {'no transfer has a higher one' if some else 'no transfer has finished'}."
    if row["verdict"] == "positive":
        return f"is best, and surely better than training from scratch.{control}"
    if row["verdict"] is None or row["p_value"] is None:
        return f"has the highest mean, of too few seeds to say more.{control}"
    return f"has the highest mean, but is not surely better than training from scratch.{control}"


def _price(run: RunFolder, row: Row) -> str:
    spent, ids = row["env_steps"] or {}, run.stages_of(row)
    own = f"{_most(spent.get('transfer'))} env steps on the target for each seed"
    own += f" ({sum(map(run.seconds, ids)) / len(ids):,.0f} seconds of one core)" if ids else ""
    if is_control(row):
        return f"{own}."
    before = f"{count_of(spent.get('pretrain'))} of pretraining"
    before += f" and {count_of(spent['consolidation'])} of consolidation" if spent.get("consolidation") else ""
    return f"{own}, after {before}, which {paid_words(run, row)}."


def _most(steps: float | None) -> str:
    """Env steps of a row, which are those of the seed that took most."""
    return f"{'' if steps is None else 'at most '}{count_of(steps)}"


def _lead(best: Best, rows: Sequence[Row]) -> str:
    if best.next is None:
        return ""
    second = f"{transfer.row_name(best.next, rows)} ({format_score(best.next['auc'])})"
    first, other = best.row["auc"], best.next["auc"]
    if first is None or other is None or first["low"] is None or other["high"] is None:
        return f"Next is {second}."
    if best.row["verdict"] == "positive" and middle(other) > middle(first):
        return f"The mean of {second} is higher, but it is not surely better than training from scratch."
    apart = first["low"] > other["high"]
    return f"Next is {second}; their intervals {'are apart' if apart else 'overlap, so their order is not certain'}."


def _sequence_summary(run: RunFolder) -> list[Sentence]:
    single = [row for row in run.rows if not row["network_per_task"]]
    if not single:
        return []
    best = max(single, key=lambda row: middle(row["average_performance"]))
    steps = best["env_steps"] or {}
    more = f" and {count_of(steps['consolidation'])} of consolidation" if steps.get("consolidation") else ""
    text = (
        f"has the highest mean at the end, of methods with one network for all tasks: its score over the tasks is "
        f"{format_score(best['average_performance'], ' to ')}; it forgot {format_score(best['forgetting'], ' to ')} of "
        f"each earlier task. It took {_most(steps.get('training'))} env steps of training{more} for each seed."
    )
    return [Sentence(best["method"], text)]


class Paid(NamedTuple):
    """After how many transfers what came before them has paid (`break_even`); ``most``: whether it is an upper bound.

    ``why`` not, where there is no number.
    """

    transfers: int | None
    most: bool = False
    why: str = ""


def break_even_of(run: RunFolder, row: Row, seconds: bool = False) -> Paid:
    """Of a method on a target; by the env steps to the experiment's threshold, or the core seconds that they took."""
    spent = row["env_steps"] or {}
    base = next(filter(is_baseline, rows_of(run, row["target"])), None)
    if base is None or row["scored"] is False or spent.get("transfer") is None:
        return Paid(None, why="cannot be said to pay, without a scale or scratch")
    if spent.get("pretrain") is None:
        return Paid(None, why="cannot be said to pay, as it is not known what the source took")
    slow, fast = base["steps_to_threshold"], row["steps_to_threshold"]
    before, theirs, own = float(spent["pretrain"] + (spent.get("consolidation") or 0)), 1.0, 1.0
    if seconds:
        known = (row["cost"] or {}).get("before")
        if known is None or not base["cost"] or not spent["transfer"]:
            return Paid(None, why="cannot be said to pay, as its seconds are not known")
        before = known["core_seconds"]
        theirs, own = (r["cost"]["own"]["core_seconds"] / r["env_steps"]["transfer"] for r in (base, row))
    saved_from = theirs * (spent["transfer"] if slow is None else slow)
    count = break_even(before, saved_from, None if fast is None else own * fast)
    if count is None and slow is None and fast is not None:
        return Paid(None, why="cannot be said to pay, as scratch's training was too short to compare")
    if count is None:
        score_wanted = f"a score of {run.results.get('threshold') or 0:g}"
        never = f"never reaches {score_wanted}" if fast is None else f"reaches {score_wanted} no sooner than scratch"
        return Paid(None, why=f"has not paid, as the method {never}")
    return Paid(count, slow is None)


def paid_words(run: RunFolder, row: Row) -> str:
    """After how many transfers it has paid, or why not, as the end of a sentence."""
    paid = break_even_of(run, row)
    if paid.transfers is None:
        return paid.why
    times = f"{paid.transfers:,} transfer{'' if paid.transfers == 1 else 's'}"
    return f"has paid after {times}{' or fewer' if paid.most else ''}"


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
    lines += [*clip_notes(data), *resume_notes(data), *scales]
    if not run.rows and not any("no run of scratch" in line for line in own):
        lines.append("No comparison has finished yet; the table of stages says how far they are.")
    elif not run.is_sequence and not any(run.curves(row) for row in run.rows):
        lines.append("No learning curves: the folder has no stages, or its results were written by an older Graft.")
    return lines
