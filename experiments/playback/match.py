"""Matches of two teams' agents, and the share of games that one wins."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.adapters.pettingzoo.batch import PettingZooBatch
from graft.envs.core.task import Task
from graft.envs.core.team_rows import TeamRows
from graft.envs.core.teams import RULES
from graft.envs.factory import make
from graft.errors import GraftError
from graft.experiments.playback.agent import agent_and_task, check_fit, find_checkpoint, playing

GAMES_AT_ONCE = 64
MAX_STEPS = 10_000
"""Steps without the end of any game after which a match is given up."""


class Outcome(NamedTuple):
    """Games of one team against another."""

    won: int
    drawn: int
    lost: int

    @property
    def games(self) -> int:
        return self.won + self.drawn + self.lost

    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of games won (Wilson 1927)."""
        from scipy.stats import binomtest  # takes a second to import

        low, high = binomtest(self.won, self.games).proportion_ci(0.95, method="wilson")
        return float(low), float(high)


def team_policy(
    network: PolicyNetwork, seed: int, deterministic: bool, names: Sequence[str] | None = None
) -> Callable[[Any, Any], Any]:
    """The policy of a team: ``(observations (N, size, *shape), alive) -> actions (N, size, ...)``.

    ``names`` are those of the observations, where the network knows more; the others are zero.
    """
    generator, own = torch.Generator().manual_seed(seed), network.schemas.observation
    indices = [own.names.index(name) for name in names or own.names]
    network.eval()

    def choose(obs: Any, alive: Any) -> Any:
        wide = np.zeros((obs.shape[0] * obs.shape[1], *own.shape), obs.dtype)
        wide[:, indices] = obs.reshape(-1, *obs.shape[2:])
        actions = network.act(torch.as_tensor(wide), generator, deterministic).numpy()
        return actions.reshape(*obs.shape[:2], *actions.shape[1:])

    return choose


def match(
    network: PolicyNetwork, task: Task, against: PolicyNetwork | str, games: int, seed: int, deterministic: bool = False
) -> Outcome:
    """Let ``network`` play the task's team against another.

    Args:
        task: of agents in teams, one of which is its ``team``.
        against: a network for the other team, or a rule (`graft.envs.core.teams.RULES`).
        games: how many, shared out evenly over a batch of games, each of which counts from its first.
        deterministic: play the most likely actions instead of samples.
    Raises:
        GraftError: a task without two teams, or a network that does not fit its team.
    """
    slots = _rows(task, 1, seed).slots
    at_once = min(GAMES_AT_ONCE, games)
    rows = _rows(task, at_once * len(slots), seed)
    check_fit(network.schemas, task)
    network = playing(network, task)
    team = tuple(rows.squad.teams).index(rows.team)
    if isinstance(against, str):
        rows.opponents = against
    else:
        other = Task(task.id, {**task.kwargs, "team": rows.others[0]})
        check_fit(against.schemas, other)
        against = playing(against, other)
        names = rows.squad.schemas_of(rows.others[0]).observation.names
        rows.opponents = team_policy(against, seed + 1, deterministic, names)
    quota, played = -(-games // at_once), np.zeros(at_once, np.int64)
    counts = {"won": 0, "drawn": 0, "lost": 0}
    own_policy, waited = team_policy(network, seed, deterministic, rows.observation_schema.names), 0
    obs, infos = rows.reset()
    try:
        while played.min() < quota:
            shape = (at_once, len(slots))
            actions = own_policy(obs.reshape(*shape, *obs.shape[1:]), infos["alive"].reshape(shape))
            obs, _, _, _, infos = rows.step(actions.reshape(-1, *actions.shape[2:]))
            winners = infos["winner"]
            waited = 0 if (winners != -1).any() else waited + 1
            if waited > MAX_STEPS:
                raise GraftError(f"No game of {task} ended within {MAX_STEPS:,} steps; give it a time limit.")
            for i in np.flatnonzero((winners != -1) & (played < quota)):
                counts["won" if winners[i] == team else "drawn" if winners[i] == -2 else "lost"] += 1
                played[i] += 1
    finally:
        rows.close()
    return Outcome(**counts)


def _rows(task: Task, rows: int, seed: int) -> TeamRows:
    env = make(task, rows, seed)
    if not isinstance(env, TeamRows):
        problem = f"{task} has no teams; a match needs a task such as Graft/Pursuit-v0."
    elif isinstance(env.squad, PettingZooBatch):
        problem = f"{task} names no winner; a match needs a task such as Graft/Pursuit-v0."
    elif len(env.others) != 1:
        problem = f"{task}: give the team that the checkpoint plays: team={' or team='.join(env.squad.teams)}."
    else:
        return env
    env.close()
    raise GraftError(problem)


def run(console: Console, options: argparse.Namespace) -> None:
    """Play as the options of ``graft match`` say, and print the outcome; raises GraftError for bad input."""
    checkpoint, task = agent_and_task(options.words)
    rule = options.against in RULES
    against = options.against if rule else Checkpoint.load(find_checkpoint(Path(options.against))).build()
    outcome = match(checkpoint.build(), task, against, options.games, options.seed, options.deterministic)
    low, high = outcome.interval()
    console.print(
        f"{task} against {options.against}: won {outcome.won / outcome.games:.1%} [{low:.1%}, {high:.1%}] of "
        f"{outcome.games} games, drew {outcome.drawn}, lost {outcome.lost}",
        soft_wrap=True,
    )
