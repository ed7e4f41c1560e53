"""Audits an agent as the options of ``graft audit`` say."""

from __future__ import annotations

import argparse
from contextlib import closing

import torch
from rich.console import Console
from rich.table import Table

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import build_network
from graft.agents.training.rollouts import collect
from graft.envs.core.task import Task
from graft.envs.core.task_string import split_words
from graft.envs.factory import make
from graft.errors import GraftError
from graft.experiments.playback.agent import find_checkpoint
from graft.transfer.audit import LIMITS, Finding, audit
from graft.transfer.merging import check_alike, laid_out

ENVS = 32
UNCLEAR = (
    "The trigger is above its limit. So are many clean agents that were trained on another task or with fresh heads "
    "(docs/audit.md): look at it. --alarm makes it an alarm."
)


def run(console: Console, options: argparse.Namespace) -> bool:
    """Audit and print what was found; raises GraftError for bad input. Returns whether there is an alarm."""
    agent, base = (Checkpoint.load(find_checkpoint(path)) for path in (options.checkpoint, options.against))
    task = base.task if options.task is None else _task(options.task)
    findings = audit_checkpoint(agent, base, task, options.states, options.changes, options.seed)
    trigger = next(finding for finding in findings if finding.name == "trigger").above
    if base.id not in agent.lineage:
        console.print("WARNING: its lineage does not name the base; what stands out may be another training.")
    table = Table("what", "value", "limit", "", "where")
    for finding in findings:
        alarms = options.alarm and finding.name == "trigger"
        verdict = ("ALARM" if alarms else "above") if finding.above else ""
        table.add_row(finding.name, f"{finding.value:.3f}", f"{LIMITS[finding.name]:.3f}", verdict, finding.detail)
    console.print(table)
    if trigger and not options.alarm:
        console.print(UNCLEAR)
    return bool(trigger and options.alarm)


def _task(words: list[str]) -> Task:
    alone, keywords = split_words(words)
    if len(alone) != 1:
        raise GraftError(f"--task takes one id, then its keywords as key=value; given: {' '.join(words)}.")
    return Task(alone[0], keywords)


def audit_checkpoint(
    agent: Checkpoint, base: Checkpoint, task: Task, states: int, changes: int, seed: int
) -> list[Finding]:
    """`audit` in states that the base meets in ``task``; nothing that the agent's manifest names is imported."""
    check_alike(base, {"the base": base, "the agent": agent})
    before, after = (build_network(base.schemas, base.network, seed=0).eval() for _ in range(2))
    before.load_exactly(base.tensors)
    after.load_exactly(laid_out(agent, base.schemas))
    with closing(make(task, ENVS, seed, observation=base.schemas.observation)) as env:
        met = collect(before, env, states, torch.Generator().manual_seed(seed)).observations
    return audit(after, before, met, changes)
