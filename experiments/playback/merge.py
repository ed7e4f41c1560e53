"""Merges agents as the options of ``graft merge`` say, plays what came out, and writes its checkpoint."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from graft.agents.checkpoints.checkpoint import MANIFEST, UNSPECIFIED, Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork, Unstable, build_network
from graft.agents.training.backend import Evaluation
from graft.agents.training.evaluate import evaluate
from graft.envs.core.task import TaskVectorEnv
from graft.envs.factory import make
from graft.errors import GraftError, unknown
from graft.experiments.plan.sources import NO_DERIVATIVES
from graft.experiments.playback.agent import find_checkpoint
from graft.experiments.stages.run_stage import reward_scale_of, with_values_scaled
from graft.experiments.store.lineage import Member, family
from graft.experiments.store.provenance import provenance
from graft.experiments.store.records import STARTS
from graft.transfer.merging import MERGED, MERGES, LayerConflict, laid_out, merge

BASE = "the base"
Scores = dict[str, dict[str, dict[str, Any]]]
"""Task -> agent -> episodes, mean return and half of its 95 % interval."""


def run(console: Console, options: argparse.Namespace) -> Checkpoint:
    """Merge, report and write; raises GraftError for bad input. Returns the checkpoint that was written."""
    _check_out(options.out, options.force)
    chosen = _options_of(options)
    folders = [find_checkpoint(path) for path in options.agents]
    agents = {str(path): Checkpoint.load(folder) for path, folder in zip(options.agents, folders, strict=True)}
    if len({agent.id for agent in agents.values()}) < max(2, len(folders)):
        raise GraftError(f"A merge needs two different agents or more; given: {', '.join(map(str, options.agents))}.")
    families = [family(folder, options.search) for folder in folders]
    base = _base(agents, families, options.base)
    inputs = [m.folder for members in families for m in members if m.folder]
    _check_no_input(options.out, inputs if options.base is None else [*inputs, find_checkpoint(options.base)])
    about = _licence({BASE: base, **agents}, options.override_licence)
    _warn(console, base, agents, families)
    scale = reward_scale_of(next(iter(agents.values())))
    agents = {name: with_values_scaled(agent, scale) for name, agent in agents.items()}
    merged = merge(with_values_scaled(base, scale), agents, options.method, **chosen)
    console.print(_conflict_table(merged.conflicts, list(agents)))
    first = next(iter(agents.values()))
    made = Checkpoint.of(merged.network, first.task, lineage=_lineage(agents.values()))
    scores = _scores({BASE: base, **agents, MERGED: made}, agents.values(), options) if options.episodes else {}
    if scores:
        console.print(_score_table(scores))
        about["evaluation"] = scores[str(first.task)][MERGED]
    about["stage"] = {"algorithm": {"reward_scale": scale}}
    about["merge"] = {
        "method": options.method,
        "options": chosen,
        "base": base.id,
        "parents": [{"id": agent.id, "lineage": list(agent.lineage)} for agent in agents.values()],
        "conflicts": [_finite(conflict) for conflict in merged.conflicts],
        "scores": scores,
    }
    made = replace(made, record={**about, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **provenance()})
    console.print(f"Checkpoint {made.save(options.out)[:12]}: {options.out}")
    return made


def _check_out(out: Path, force: bool) -> None:
    if out.exists() and not (force and (out / MANIFEST).is_file()):
        raise GraftError(f"{out} exists; give another folder, or --force to replace a checkpoint that is there.")


def _check_no_input(out: Path, inputs: Iterable[Path]) -> None:
    """Raise GraftError where writing ``out`` would replace one of ``inputs``, or a folder that holds it."""
    for folder in inputs:
        if out.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise GraftError(f"{folder} is merged, or an ancestor, and --out {out} would replace it.")


def _options_of(options: argparse.Namespace) -> dict[str, float]:
    """The method's options, with their defaults; raises GraftError for one that it does not take."""
    if options.method not in MERGES:
        raise unknown("method of merging", options.method, MERGES)
    taken = {name: p.default for name, p in list(signature(MERGES[options.method]).parameters.items())[1:]}
    given = {name: value for name in ("keep", "scale") if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if name not in taken:
            raise GraftError(f"--{name} is no option of {options.method}; it takes {', '.join(taken) or 'none'}.")
        if not math.isfinite(value) or (name == "keep" and not 0 < value <= 1):
            raise GraftError(f"--{name} {value} is not allowed; a number{' in (0, 1]' * (name == 'keep')} is needed.")
    return {**taken, **given}


def _base(agents: Mapping[str, Checkpoint], families: list[list[Member]], given: Path | None) -> Checkpoint:
    """The checkpoint that all agents were fine-tuned from: ``given``, or their last common ancestor."""
    if given is not None:
        return Checkpoint.load(find_checkpoint(given))
    first, *others = agents.values()
    shared = [ancestor for ancestor in first.lineage if all(ancestor in other.lineage for other in others)]
    if not shared:
        raise GraftError(
            f"{' and '.join(agents)} share no ancestor, and only fine-tunes of one base can be merged; --base says "
            f"what they were fine-tuned from where their lineage does not."
        )
    folder = next((m.folder for members in families for m in members if m.id == shared[0] and m.folder), None)
    if folder is None:
        raise GraftError(
            f"The last common ancestor, {shared[0][:12]}, was not found; --search DIR says where else to look, --base "
            f"where it is."
        )
    base = Checkpoint.load(folder)
    if rivals := [one for one in shared[1:] if one not in base.lineage]:
        raise GraftError(
            f"{' and '.join(agents)} have several last common ancestors, {shared[0][:12]} and {rivals[0][:12]}; "
            f"--base says which of them to merge from."
        )
    return base


def _warn(
    console: Console, base: Checkpoint, agents: Mapping[str, Checkpoint], families: Iterable[list[Member]]
) -> None:
    """Say where an agent, or its heads, may not come from the base."""
    for (name, agent), members in zip(agents.items(), families, strict=True):
        if base.id not in agent.lineage:
            console.print(f"WARNING: the lineage of {name} does not name the base; it counts as its fine-tune.")
            continue
        since = [member for member in members if member.id not in (base.id, *base.lineage)]
        heads = {_heads(member) for member in since}
        if "fresh" in heads:
            console.print(f"WARNING: {name} was given fresh heads, which share nothing with those of the base.")
        elif "unknown" in heads:
            console.print(f"WARNING: whether {name} was given fresh heads, or the base's, is not known.")


def _heads(member: Member) -> str:
    """``fresh``, ``carried`` or ``unknown``, as the record of what was made says."""
    stage, starts = member.record.get("stage") or {}, member.record.get(STARTS) or {}
    method = stage.get("method")
    if member.record.get("merge") or stage.get("kind") == "consolidate":
        return "carried"
    if not isinstance(method, dict) or not isinstance(starts, dict):
        return "unknown"
    inner = [one for one in method.get("methods") or () if isinstance(one, dict)]  # of a chain
    said = [starts.get("taken") or one.get("heads") for one in (method, *inner)]
    if "fresh" in said:
        return "fresh"
    return "unknown" if "auto" in said and "by_name" not in said else "carried"


def _licence(owned: Mapping[str, Checkpoint], override: bool) -> dict[str, Any]:
    """What the record says of the licence; raises GraftError where one allows no derivatives."""
    said = {name: str(one.record.get("licence", UNSPECIFIED)) for name, one in owned.items()}
    forbidden = [
        name for name, one in owned.items() if NO_DERIVATIVES.search(said[name]) or one.record.get("licence_overridden")
    ]
    if forbidden and not override:
        raise GraftError(
            f"The licence of {forbidden[0]} or of an ancestor allows no derivatives, and a merge makes one; where its "
            f"owner agreed, give --override-licence, which the checkpoint will record."
        )
    different = sorted(set(said.values()))
    if len(different) == 1 or UNSPECIFIED in different:
        licence = different[0] if len(different) == 1 else UNSPECIFIED
    else:
        licence = " AND ".join(f"({one})" if " " in one else one for one in different)
    return {"licence": licence, **({"licence_overridden": True} if forbidden else {})}


def _lineage(agents: Iterable[Checkpoint]) -> tuple[str, ...]:
    """All ancestors, the first agent first, and none before what descends from it."""
    from_root = [ancestor for agent in reversed(list(agents)) for ancestor in (*reversed(agent.lineage), str(agent.id))]
    return tuple(reversed(dict.fromkeys(from_root)))


def _scores(players: Mapping[str, Checkpoint], agents: Iterable[Checkpoint], options: argparse.Namespace) -> Scores:
    """Returns of all ``players`` on each task of ``agents``, on the same levels with the same dice."""
    scores: Scores = {}
    plan = Evaluation()
    for owner in {str(agent.task): agent for agent in agents}.values():
        row = scores.setdefault(str(owner.task), {})
        for name, player in players.items():
            network = build_network(owner.schemas, player.network, seed=0)
            network.load_exactly(laid_out(player, owner.schemas))
            dice = torch.Generator().manual_seed(options.seed)
            with closing(make(owner.task, plan.num_envs, options.seed, observation=owner.schemas.observation)) as env:
                returns = _returns(name, network, env, options, dice)
            half = 1.96 * float(returns.std(ddof=1)) / len(returns) ** 0.5
            row[name] = {"episodes": len(returns), "return_mean": float(returns.mean()), "ci95": half}
    return scores


def _returns(
    name: str, network: PolicyNetwork, env: TaskVectorEnv, options: argparse.Namespace, dice: torch.Generator
) -> NDArray[np.float64]:
    try:
        return evaluate(network, env, options.episodes, dice, seed=options.seed).returns
    except Unstable as error:
        raise GraftError(f"The outputs of {name} are not finite numbers, so it cannot be played.") from error


def _finite(conflict: LayerConflict) -> dict[str, Any]:
    """Of JSON, which has no infinity."""
    return {**conflict._asdict(), "moved": [moved if math.isfinite(moved) else None for moved in conflict.moved]}


def _conflict_table(conflicts: Iterable[LayerConflict], names: list[str]) -> Table:
    table = Table(title="what the agents changed of the base, and where they conflict")
    for heading in ("layer", "values", *(f"change / norm, {name}" for name in names), "signs disagree", "cosine"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", overflow="fold")
    for layer, values, moved, disagree, cosine in conflicts:
        share = "-" if disagree is None else f"{disagree:.1%}"
        table.add_row(layer or "all", f"{values:,}", *(f"{m:.3g}" for m in moved), share, f"{cosine:.3f}")
    return table


def _score_table(scores: Scores) -> Table:
    table = Table("agent", title="mean return, with 95 % intervals")
    for task in scores:
        table.add_column(task, justify="right", overflow="fold")
    for name in next(iter(scores.values())):
        cells = [row[name] for row in scores.values()]
        table.add_row(name, *(f"{cell['return_mean']:.2f} ± {cell['ci95']:.2f}" for cell in cells))
    return table
