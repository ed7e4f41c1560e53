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
from graft.envs.factory import make
from graft.experiments.playback.agent import find_checkpoint
from graft.transfer.audit import LIMITS, Finding, audit
from graft.transfer.merging import check_alike, laid_out

ENVS = 32


def run(console: Console, options: argparse.Namespace) -> list[Finding]:
    """Audit and print what was found; raises GraftError for bad input."""
    agent, base = (Checkpoint.load(find_checkpoint(path)) for path in (options.checkpoint, options.against))
    findings = audit_checkpoint(agent, base, options.states, options.changes, options.seed)
    if base.id not in agent.lineage:
        console.print("WARNING: its lineage does not name the base; what stands out may be another training.")
    table = Table("what", "value", "limit", "", "where")
    for finding in findings:
        verdict = "ALARM" if finding.alarms else "above" if finding.above else ""
        table.add_row(finding.name, f"{finding.value:.3f}", f"{LIMITS[finding.name]:.3f}", verdict, finding.detail)
    console.print(table)
    return findings


def audit_checkpoint(agent: Checkpoint, base: Checkpoint, states: int, changes: int, seed: int) -> list[Finding]:
    """`audit` in states that the base meets in the agent's task."""
    check_alike(agent, {"the base": base})
    network, before = agent.build().eval(), build_network(agent.schemas, agent.network, seed=0).eval()
    before.load_exactly(laid_out(base, agent.schemas))
    with closing(make(agent.task, ENVS, seed, observation=agent.schemas.observation)) as env:
        met = collect(before, env, states, torch.Generator().manual_seed(seed)).observations
    return audit(network, before, met, changes)
