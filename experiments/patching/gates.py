"""Gates: whether what was measured is what the file asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.experiments.config.patch import Gate
from graft.experiments.patching.check import curves_of, old_score, share_of, steps_to, why_not_kept
from graft.experiments.patching.prepare import Patch, gated_method
from graft.experiments.patching.sections import percent
from graft.experiments.report.common import fixed
from graft.experiments.store.records import Store
from graft.transfer import metrics
from graft.transfer.method import label

NO_SHARE = "the old score is 0, and nothing is a share of it"


def judge(patch: Patch, store: Store | None, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each gate in words, what was measured, and whether it passed; ``store``: None where nothing was trained."""
    return [_judged(patch, store, data, gate) for gate in patch.config.gates]


def _judged(patch: Patch, store: Store | None, data: Mapping[str, Any], gate: Gate) -> dict[str, Any]:
    if gate.zero_shot is not None:
        share = data["zero_shot"]["share"]
        said = NO_SHARE if share is None else f"{fixed(share['mean'])} of the old score"
        passed = share is not None and share["mean"] >= gate.zero_shot
        return _result(f"zero-shot score at least {gate.zero_shot:g} of the old one", said, passed)
    method = gated_method(patch.config, gate)
    result = next(r for r in data["methods"] if r["method"] == method)
    text = _text(gate, method, result["env_steps"] or patch.config.steps)
    if result["missing_seeds"]:
        return _result(text, f"{result['missing_seeds']} trainings failed: {result['error'] or 'not run'}", False)
    if gate.forgotten is not None:
        lost = result["forgotten"]
        said = f"not measured: {why_not_kept(result['not_kept']) if result['not_kept'] else NO_SHARE}"
        if lost is not None:
            said = f"{fixed(lost['mean'])} of the old score is lost"
        return _result(text, said, lost is not None and lost["mean"] <= gate.forgotten)
    assert gate.recovered is not None
    assert store is not None
    old = old_score(data)
    if share_of(old, old) is None:
        return _result(text, NO_SHARE, False)
    comparison = next(c for c in patch.methods if label(c.method) == method)
    curves = curves_of(patch, store, comparison)
    steps = metrics.aggregate_steps_to_threshold(steps_to(curves, gate.recovered, old))
    reached = metrics.aggregate_steps_to_threshold(steps_to(curves, gate.recovered, old, 1))
    limit = result["env_steps"] if gate.within_steps is None else gate.within_steps
    share = "an unknown share" if result["final_share"] is None else percent(result["final_share"])
    best = f"not within {result['env_steps']:,} env steps"
    if reached is not None:
        best = f"reached at {reached:,.0f} env steps, not held for {result['hold']} evaluations"
    best += f"; the final score is {share} of the old"
    return _result(text, best if steps is None else f"{steps:,.0f} env steps", steps is not None and steps <= limit)


def _result(gate: str, measured: str, passed: bool) -> dict[str, Any]:
    return {"gate": gate, "measured": measured, "passed": passed}


def _text(gate: Gate, method: str, steps: int) -> str:
    if gate.forgotten is not None:
        return f"{method} forgets at most {gate.forgotten:g} of the old score"
    within = steps if gate.within_steps is None else gate.within_steps
    return f"{method} has {gate.recovered:g} of the old score back within {within:,} env steps"
