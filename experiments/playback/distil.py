"""A smaller network that plays what an agent plays: policy distillation on states of play, and what is kept."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.normaliser import commit_statistics
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.parity import CHUNK, Array, record
from graft.agents.training.evaluate import evaluate
from graft.envs.core.task import TaskVectorEnv
from graft.envs.factory import make
from graft.errors import GraftError
from graft.transfer.divergence import kl, policy_outputs, rows_of

ENVS = 8
ROUNDS = 4
"""Of recording and fitting: first the agent plays, then the small network, whose own mistakes are so seen."""

STATES = 4096  # recorded in a round
STEPS = 1000  # minibatches in a round
MINIBATCH = 256
LEARNING_RATE = 1e-3
WIDEST, DEEPEST = 4096, 8


def widths_of(words: str) -> list[int]:
    """Units of each hidden layer that ``mlp:64x64`` says; raises GraftError for anything else."""
    match = re.fullmatch(r"mlp:(\d{1,4}(?:x\d{1,4})*)", words)
    widths = [int(word) for word in match[1].split("x")] if match else []
    if not widths or len(widths) > DEEPEST or not all(1 <= width <= WIDEST for width in widths):
        raise GraftError(
            f"--distill-to {words[:80]} is not allowed; it is mlp: and the units of up to {DEEPEST} layers, each from "
            f"1 to {WIDEST}: mlp:64x64."
        )
    return widths


def distilled(
    checkpoint: Checkpoint,
    to: str,
    episodes: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    check: Callable[[PolicyNetwork], object] | None = None,
) -> tuple[Checkpoint, list[str]]:
    """``checkpoint`` with a network of the layers that ``to`` names, and sentences about it.

    The loss is KL(agent || small network) of the action distributions, which for boxes compares means and deviations,
    and for agents of DQN is half the squared distance of the Q values. The value is left as it was drawn: no format
    plays it. The record has ``distilled``: ``to``, weights before and after, mean returns of greedy play in the same
    ``episodes``, and on states of the agent's play that were not fitted the share with equal actions (of boxes the mean
    difference).

    Args:
        say: takes lines on what is done, and how long it will take.
        check: called with the small network before it is fitted; raises GraftError where it cannot be exported.
    Raises:
        GraftError: layers that cannot be made, observations with parts, or a task that cannot be made.
    """
    agent = checkpoint.build().eval()
    kind = agent.schemas.observation.plain.kind
    if kind == "parts":
        raise GraftError("--distill-to mlp reads one vector, board or picture; this agent's observations have parts.")
    options = {"widths": widths_of(to), "normalise": kind == "vector"}
    config = NetworkConfig("mlp", options, head=(), distribution=checkpoint.network.distribution)
    small = PolicyNetwork(agent.schemas, config, seed)
    if check is not None:
        check(small)
    say(f"distilling to {to}: {ROUNDS} rounds of {STATES:,} states and {STEPS:,} updates, then {episodes} episodes")
    with closing(make(checkpoint.task, ENVS, seed, observation=agent.schemas.observation)) as env:
        _fit(agent, small, env, seed, say)
        tested = record(agent, env, STATES, seed + ROUNDS)
        told = {"to": to, "states": ROUNDS * STATES, **_kept(agent, small, tested)}
        for name, network in (("return_mean", small), ("return_mean_of_agent", agent)):
            dice = torch.Generator().manual_seed(seed)
            found = evaluate(network, env, episodes, dice, deterministic=True, seed=seed)
            told |= {name: float(found.returns.mean()), "episodes": len(found.returns)}
    about = Checkpoint.of(small, checkpoint.task, record={**checkpoint.record, "distilled": told})
    return replace(about, id=checkpoint.id, lineage=checkpoint.lineage), _sentences(told)


def _fit(agent: PolicyNetwork, small: PolicyNetwork, env: TaskVectorEnv, seed: int, say: Callable[[str], None]) -> None:
    """Train ``small`` on states of both, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(small.parameters(), lr=LEARNING_RATE, fused=True)
    seen = torch.zeros(0)
    for number in range(ROUNDS):
        fresh = torch.as_tensor(record(small if number else agent, env, STATES, seed + number))
        seen = torch.cat([seen, fresh]) if number else fresh
        if number == 0:  # statistics of the agent's own play, which then stay
            start = time.monotonic()  # the first play has compiled the game, once
            with torch.no_grad():
                small.train()(fresh)
            commit_statistics(small.eval())
        target = policy_outputs(agent, seen)
        for step in range(STEPS):
            done = (number * STEPS + step) / (ROUNDS * STEPS)
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - done)
            rows = torch.randint(len(seen), (MINIBATCH,), generator=generator)
            optimiser.zero_grad()
            found, wanted = small(seen[rows]), rows_of(target, rows)
            distance = kl(wanted, found, small.config.distribution, sizes=small.schemas.action.sizes)
            distance.mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        took = time.monotonic() - start
        left = took / (number + 1) * (ROUNDS - number - 1)
        say(f"round {number + 1} of {ROUNDS}: {took:.0f} s" + (f", about {left:.0f} s to go" if left else ""))


def _kept(agent: PolicyNetwork, small: PolicyNetwork, states: Array) -> dict[str, Any]:
    """Weights of both, and how far their greedy actions are apart in ``states``."""
    with torch.no_grad():
        wanted, found = (
            np.concatenate([network.act(c, None, deterministic=True).numpy() for c in torch.split(chunks, CHUNK)])
            for network, chunks in ((agent, torch.as_tensor(states)), (small, torch.as_tensor(states)))
        )
    sizes = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in (("weights", small), ("weights_of_agent", agent))
    }
    if agent.schemas.action.kind == "box":
        return {**sizes, "mean_difference": float(np.abs(found - wanted).mean())}
    return {**sizes, "agreement": float((found == wanted).reshape(len(states), -1).all(1).mean())}


def _sentences(told: dict[str, Any]) -> list[str]:
    same = (
        f"{told['agreement']:.1%} of the actions are the same"
        if "agreement" in told
        else f"actions differ by {told['mean_difference']:.2g} on average"
    )
    return [
        f"distilled to {told['to']}: {told['weights_of_agent']:,} -> {told['weights']:,} weights; {same}; mean return "
        f"{told['return_mean']:.2f}, of the agent {told['return_mean_of_agent']:.2f} ({told['episodes']} episodes)"
    ]
