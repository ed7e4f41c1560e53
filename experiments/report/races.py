"""What `auto` raced and kept, in reports, and its regret beside that of always taking the same method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from graft.transfer.statistics import interquartile_mean

Row = Mapping[str, Any]

CLOSE = 0.1
"""Share of the best area by which a choice may fall short of it, and be called close."""


def of_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """For a row of ``results.json``, from its stages' records of their races; None where there was none."""
    if not records:
        return None
    return {
        "candidates": list(records[0]["spent"]),
        **{key: [one[key] for one in records] for key in ("kept", "env_steps_of_others", "env_steps_of_episodes")},
    }


class Regret(NamedTuple):
    """Areas under the curve on a target, interquartile means over seeds.

    ``best``: the candidate with the largest. ``always``: of each candidate. ``kept``: of what the race kept in each
    seed, trained alone, without what the race took. ``auto``: with it.
    """

    target: str
    source: str
    best: str
    always: dict[str, float]
    kept: float
    auto: float

    def close(self, area: float) -> bool:
        """Whether it is within `CLOSE` of the best."""
        return area >= self.always[self.best] - CLOSE * abs(self.always[self.best])


def regrets(rows: Sequence[Row]) -> list[Regret]:
    """Of every row of `auto` whose candidates were all run alone as well, with as many seeds."""
    found = []
    for row in rows:
        race = row.get("race")
        if race is None:
            continue
        alone = {r["method"]: r for r in rows if r["target"] == row["target"] and r["source"] in (row["source"], None)}
        areas = {name: alone[name]["areas"] for name in race["candidates"] if name in alone}
        if len(areas) < len(race["candidates"]) or any(len(a) != len(race["kept"]) for a in areas.values()):
            continue
        always = {name: interquartile_mean(a) for name, a in areas.items()}
        kept = interquartile_mean([areas[name][seed] for seed, name in enumerate(race["kept"])])
        best = max(always, key=lambda name: always[name])
        found.append(Regret(row["target"], row["source"], best, always, kept, interquartile_mean(row["areas"])))
    return found


def outcome(race: Mapping[str, Any]) -> str:
    """What the races of a row (`of_records`) kept, and what they took, in words."""
    seeds = len(race["kept"])
    taken, played = (sum(race[f"env_steps_of_{what}"]) / seeds for what in ("others", "episodes"))
    kept = ", ".join(f"{name} in {n}" for name, n in Counter(race["kept"]).most_common())
    return (
        f"of {seeds} seed{'s' * (seeds > 1)}, kept {kept}; {taken:,.0f} env steps of training went into others, and "
        f"are in its curve; {played:,.0f} of the episodes that decided are not."
    )


def race_notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each race, for its regret, and for all regrets together."""
    lines = [f"{row['method']} on {row['target']}: {outcome(row['race'])}" for row in rows if row.get("race")]
    found = regrets(rows)
    for one in found:
        always = ", ".join(f"{name} {area:.3f}" for name, area in one.always.items())
        lines.append(
            f"Area on {one.target}: auto {one.auto:.3f}, what it kept alone {one.kept:.3f}; always the same: {always}."
        )
    if found:
        choices = {"what auto kept": [one.close(one.kept) for one in found]}
        choices["auto with what the race took"] = [one.close(one.auto) for one in found]
        for name in dict.fromkeys(name for one in found for name in one.always):
            choices[f"always {name}"] = [one.close(one.always.get(name, 0.0)) for one in found]
        counts = ", ".join(f"{name} in {sum(close)}" for name, close in choices.items())
        lines.append(f"Within {CLOSE:.0%} of the best area, of {len(found)} pairs: {counts}.")
    return lines
