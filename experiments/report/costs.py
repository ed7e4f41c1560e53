"""What stages took together, with estimates of energy and CO2, and how a report says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.experiments.config.experiment import CostFactors
from graft.experiments.store.records import COST, Store

Spent = Mapping[str, Any]

ADDED = ("updates", "wall_seconds", "core_seconds", "gpu_seconds", "flops")
"""Keys of a stage's cost that add up over stages."""


def together(costs: Sequence[Spent | None], factors: CostFactors, seeds: int = 1) -> dict[str, Any] | None:
    """Sums over stages for each of ``seeds``, and the largest memory; None where a stage's cost is not known.

    ``watt_hours`` and ``grams_co2e`` are estimates: seconds of cores and GPUs x watts, x grams for each kWh.
    """
    known = [cost for cost in costs if cost]
    if not known or len(known) < len(costs):
        return None
    spent: dict[str, Any] = {}
    for key in ADDED:
        values = [cost.get(key) for cost in known]
        spent[key] = None if None in values else round(sum(v for v in values if v is not None) / seeds, 3)
    spent["peak_bytes"] = max(cost["peak_bytes"] for cost in known)
    return spent | energy(spent, factors)


def energy(spent: Spent, factors: CostFactors) -> dict[str, float]:
    """An estimate, by stated factors."""
    joules = spent["core_seconds"] * factors.watts_per_core + spent["gpu_seconds"] * factors.watts_per_gpu
    return {"watt_hours": joules / 3600, "grams_co2e": joules / 3.6e6 * factors.grams_per_kwh}


def of_experiment(stages: Sequence[Mapping[str, Any]], factors: CostFactors) -> dict[str, Any]:
    """For ``results.json``: the factors, and the total of all stages that say what they took."""
    known = [stage[COST] for stage in stages if stage.get(COST)]
    return {"factors": factors.model_dump(), "total": together(known, factors)}


def of_seeds(
    store: Store, before: Sequence[Sequence[str]], own: Sequence[Sequence[str]], factors: CostFactors
) -> dict[str, Any] | None:
    """For a row of ``results.json``: means over seeds of what came before, and of a seed's own stages.

    ``before``: stages of each seed; empty where there are none, and where a checkpoint was given.
    """

    def taken(stages: Sequence[Sequence[str]]) -> dict[str, Any] | None:
        return together([(store.record(i) or {}).get(COST) for ids in stages for i in ids], factors, len(stages))

    last = [(store.record(ids[-1]) or {}).get(COST) or {} for ids in own]
    if not own or (spent := taken(own)) is None:
        return None
    return {"before": taken(before), "own": spent, "inference_ms": float(np.median([c["inference_ms"] for c in last]))}


def amount(value: float, unit: str) -> str:
    """Three digits with a prefix: ``1.23 GFLOP``."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}" if value >= 1 or not value else f"{value * 1000:.3g} m{unit}"


def sentence(data: Mapping[str, Any]) -> str:
    """What the stages took."""
    spent = {
        kind: sum(stage["env_steps"] for stage in data["stages"] if stage["kind"] == kind)
        for kind in ("pretrain", "transfer", "consolidate")
    }
    memory = f" and {spent['consolidate']:,} of consolidation" if spent["consolidate"] else ""
    own = any(stage["kind"] == "pretrain" for stage in data["stages"])  # none where sources are checkpoints
    before = f"{spent['pretrain']:,} env steps of pretraining, " if own else ""
    steps = f"Cost: {before}{spent['transfer']:,}{'' if own else ' env steps'} of transfer{memory}"
    total = (data.get(COST) or {}).get("total")
    if total is None:
        return f"{steps}, {sum(stage['seconds'] for stage in data['stages']) / 60:.1f} minutes of training."
    work = "" if total["updates"] is None else f", {total['updates']:,.0f} updates"
    work += "" if total["flops"] is None else f", {amount(total['flops'], 'FLOP')}"
    estimate = f"by estimate {amount(total['watt_hours'], 'Wh')}, {amount(total['grams_co2e'], 'g')} CO2e"
    known, count = sum(bool(stage.get(COST)) for stage in data["stages"]), len(data["stages"])
    estimate += "" if known == count else f" (of the {known} of {count} stages that have ended well)"
    taken = f"{total['core_seconds'] / 60:.1f} minutes of one core, up to {amount(total['peak_bytes'], 'B')}"
    return f"{steps}{work}, {taken}; {estimate}."
