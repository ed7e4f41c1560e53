"""What a patch check plays and measures, as plain data (`RESULTS_VERSION`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft import __version__
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.evaluate import nth_seed
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.core.union import holds
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.patch import Scenario
from graft.experiments.patching.play import (
    FIRST_LEVELS,
    mean_of,
    played,
    returns_of,
    scenario_task,
)
from graft.experiments.patching.prepare import Patch
from graft.experiments.plan.stage import NOT_KEPT, Comparison
from graft.experiments.playback.agent import check_fit, playing
from graft.experiments.report.common import bounded
from graft.experiments.report.races import of_records
from graft.experiments.store.records import RACE, Store
from graft.transfer import metrics
from graft.transfer.method import label
from graft.transfer.metrics import Curve
from graft.transfer.statistics import Estimate, Interval, ratio_interval
from graft.transfer.transplant import transplant

RESULTS_VERSION = 1

SMALLEST = 1e-9
"""Of an old score, below which nothing is a share of it."""

HOLD = 3
"""Evaluations in which the score must stay where it has recovered."""


def share_of(score: float, old: float) -> float | None:
    """How much of the score ``old`` a score is; 1 minus what is lost of it, so that less is less below zero, too."""
    return None if abs(old) < SMALLEST else 1 - (old - score) / abs(old)


def level_of(share: float, old: float) -> float:
    """The score that is this share of ``old`` (`share_of`)."""
    return old - (1 - share) * abs(old)


def described(patch: Patch) -> dict[str, Any]:
    """The results that nothing is played for, and empty lists for those that are."""
    config, rows = patch.config, () if patch.report is None else patch.report.rows
    return {
        "version": RESULTS_VERSION,
        "graft": __version__,
        "name": config.name,
        "agent": str(config.agent),
        "agent_id": patch.agent.id,
        "old": str(patch.old),
        "new": str(patch.new),
        "tasks": {"old": patch.old.to_json(), "new": patch.new.to_json()},
        "seeds": len(config.seeds),
        "steps": config.steps,
        "recover": config.recover,
        "schema_changes": [change._asdict() for change in patch.changes],
        "transplant": {"same": patch.report is None, "rows": [vars(row) for row in rows]},
        "scored": patch.scales is not None,
        "scenarios": [],
        "methods": [],
        "gates": [],
        "failed": [],
    }


def before_training(patch: Patch) -> dict[str, Any]:
    """``zero_shot``: the agent on both builds."""
    count, episodes = len(patch.config.seeds), patch.config.episodes
    old = returns_of([patch.old_network] * count, patch.old, episodes)
    new = returns_of(patch.networks, patch.new, episodes)
    estimates = [mean_of(patch.normalise(returns, k == 1)) for k, returns in enumerate((old, new))]
    found = {
        "old": _build_result(old, False, estimates[0], patch),
        "new": _build_result(new, True, estimates[1], patch),
        "share": _share_interval(estimates[1], estimates[0]),
    }
    return {"zero_shot": found}


def _build_result(returns: Any, new: bool, score: Estimate, patch: Patch) -> dict[str, Any]:
    """``by_seed``: on the levels of each seed, the mean of what shares are of."""
    levels = patch.normalise(returns, new).reshape(len(patch.config.seeds), -1)  # as many episodes for each seed
    return {
        "by_seed": [float(mean) for mean in levels.mean(axis=1)],
        "episodes": len(returns),
        "return": _interval(mean_of(np.asarray(returns)).interval()),
        "score": _interval(score.interval()) if patch.scales is not None else None,
    }


def _interval(found: Interval) -> dict[str, float | None]:
    values = bounded(found)
    return {"mean": values["iqm"], "low": values["low"], "high": values["high"]}


def _share_interval(new: Estimate, old: Estimate) -> dict[str, float | None] | None:
    """Share of the old score that is left; below zero without an interval."""
    share = share_of(new.value, old.value)
    if share is None:
        return None
    if old.value < 0:
        return {"mean": share, "low": None, "high": None}
    return {**_interval(ratio_interval(new, old)), "mean": share}


def old_score(data: Mapping[str, Any]) -> float:
    """What shares are of."""
    build = data["zero_shot"]["old"]
    return float((build["score"] or build["return"])["mean"])


def scenario_result(patch: Patch, scenario: Scenario) -> dict[str, Any]:
    """What a scenario measured, and whether that is within its limits."""
    task = scenario_task(scenario, patch.old, patch.new)
    network = patch.old_network if scenario.on == "old" else playing(patch.networks[0], task)
    predicate = scenario.measure
    episodes, held = played(network, task, scenario.episodes, scenario.seed, scenario.deterministic, predicate)
    measured = float(episodes.returns.mean() if held is None else held.mean())
    low, high = scenario.least, scenario.most
    return {
        "name": scenario.name,
        "on": scenario.on,
        "kwargs": scenario.kwargs,
        "task": str(task),
        "measure": "mean return" if predicate is None else f"share with {predicate}",
        "measured": measured,
        "min": low,
        "max": high,
        "episodes": len(episodes.returns),
        "passed": (low is None or measured >= low) and (high is None or measured <= high),
    }


def curves_of(patch: Patch, store: Store, comparison: Comparison) -> list[Curve]:
    """Learning curves of the finished seeds, in what shares are of."""
    scale = None if patch.scales is None else patch.scales[1]
    return [store.evaluations(i, scale) for i in comparison.stages if store.done(i)]


def steps_to(curves: Sequence[Curve], share: float, old: float, hold: int = HOLD) -> list[int | None]:
    """Of each curve, the env steps until it stays at this share of the old score; None: never, or there are no shares.

    ``hold``: evaluations in which it must stay, or all of a curve that has fewer.
    """
    if share_of(old, old) is None:
        return [None] * len(curves)
    level = level_of(share, old)
    return [metrics.steps_to_threshold(c, level, min(hold, len(c.steps))) for c in curves]


def hold_of(curves: Sequence[Curve]) -> int:
    """In how many evaluations the score must stay; fewer than `HOLD` where a curve has fewer."""
    return min([HOLD, *(len(curve.steps) for curve in curves)])


def method_result(
    patch: Patch, store: Store, failed: Mapping[str, str], comparison: Comparison, data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a method took, brought and cost; ``data``: what was measured before training."""
    old = old_score(data)
    done = [i for i in comparison.stages if store.done(i)]
    curves = curves_of(patch, store, comparison)
    records = [store.record(i) or {} for i in done]
    steps = steps_to(curves, patch.config.recover, old)
    seconds = [
        None if s is None else r["seconds"] * s / max(1, r["env_steps"]) for s, r in zip(steps, records, strict=True)
    ]
    reached = steps_to(curves, patch.config.recover, old, 1)
    finals = [metrics.final_score(curve) for curve in curves]
    lost, why = _lost(patch, store, comparison, done, data)
    return {
        "method": label(comparison.method),
        "control": comparison.source is None,
        "seeds": len(done),
        "missing_seeds": len(comparison.stages) - len(done),
        "error": next((failed[i] for i in comparison.stages if i in failed), None),
        "env_steps": max((record["env_steps"] for record in records), default=0),
        "seconds": float(np.mean([record["seconds"] for record in records])) if records else None,
        "recovery_steps": metrics.aggregate_steps_to_threshold(steps) if steps else None,
        "reached_steps": metrics.aggregate_steps_to_threshold(reached) if reached else None,
        "hold": hold_of(curves),
        "recovery_seconds": _median(seconds),
        "final": _over_seeds(finals),
        "final_share": share_of(float(np.mean(finals)), old) if finals else None,
        "forgotten": _over_seeds(lost),
        "not_kept": why,
        "race": of_records([record[RACE] for record in records if RACE in record]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    """Where None is a seed that never got there: None where it is in the middle."""
    ranked = sorted(np.inf if value is None else value for value in values)
    middle = float(np.median(ranked)) if ranked else np.inf
    return middle if np.isfinite(middle) else None


def _over_seeds(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean of a number per seed with its 95 % interval; None where there is none, or one is not a number."""
    if not values or np.isnan(values).any():
        return None
    return _interval(mean_of(np.asarray(values, np.float64)).interval())


def _lost(
    patch: Patch, store: Store, comparison: Comparison, done: Sequence[str], data: Mapping[str, Any]
) -> tuple[list[float], str]:
    """Shares of the old score that the final networks have lost on the old build, or why they can't play it.

    Each is compared with the agent on the same levels: those that it had for the old score, of the network's seed.
    """
    if comparison.source is None:
        return [], "no source"
    old, before, lost = old_score(data), data["zero_shot"]["old"]["by_seed"], []
    for stage in done:
        network = on_old_build(store.checkpoint(stage), patch.old)
        if isinstance(network, str):
            return [], network
        k = comparison.stages.index(stage)
        returns = played(network, patch.old, patch.config.episodes, nth_seed(FIRST_LEVELS, k))[0].returns
        after = float(patch.normalise(returns.mean(), False))
        if share_of(after, old) is not None:
            lost.append((before[k] - after) / abs(old))
    return lost, ""


def on_old_build(trained: Checkpoint, old: Task) -> PolicyNetwork | str:
    """A network trained on the new build as it plays the old one, or why it can't, a key of `NOT_KEPT`.

    What the old build does not show is zero, and actions that it does not take are left out by name.
    """
    mine, theirs = schemas(old), trained.schemas
    if not holds(theirs.observation, mine.observation):
        return "other inputs"
    try:
        check_fit(Schemas(mine.observation, theirs.action), old)
        return playing(trained.build(), old)
    except GraftError:
        pass
    if mine.action.kind != theirs.action.kind or not set(mine.action.names) <= set(theirs.action.names):
        return "other actions"
    wanted = Schemas(theirs.observation, mine.action)
    options: Any = {"heads": "by_name", "new_channels": "zero", "rename": {}, "strict": False, "seed": 0}
    try:
        return transplant(trained, wanted, distribution=trained.network.distribution, **options)[0]
    except GraftError:
        return "other actions"


def why_not_kept(reason: str) -> str:
    """The sentence of a reason."""
    return {"no source": "it never learned the old build", **NOT_KEPT}.get(reason, reason)
