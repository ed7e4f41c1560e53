"""Squads whose teams all learn: the policy of each team."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.envs.core.naming import KEYWORD, shared_names, split_names
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.experiments.config.backends import BACKENDS

if TYPE_CHECKING:  # which needs torch
    from graft.agents.training.algorithm import Algorithm

TEAM = "team"
"""The keyword of a task for squads that names the team of a stage's own policy."""


@dataclass(frozen=True)
class Squad:
    """The policies of a task whose teams all learn.

    Attributes:
        policy_mapping: team -> policy, for each team.
        share_encoder: whether all policies have the encoder of the stage's own policy.
    """

    policy_mapping: Mapping[str, str]
    share_encoder: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"policy_mapping": dict(self.policy_mapping), "share_encoder": self.share_encoder}

    def partners(self, task: Task) -> dict[str, Task]:
        """The other policies than that of the task's team, each with the task of the first team it plays."""
        own = self.policy_mapping[str(task.kwargs[TEAM])]
        partners: dict[str, Task] = {}
        for team, policy in self.policy_mapping.items():
            if policy != own and policy not in partners:
                partners[policy] = _task_of_team(task, team)
        return partners


def _task_of_team(task: Task, team: str) -> Task:
    """``task`` for another of its teams, with those of its names that fit that team's schemas."""
    plain, given = split_names(task)
    other = Task(plain.id, {**plain.kwargs, TEAM: team})
    if not given:
        return other
    names = shared_names(given, schemas(plain), schemas(other))
    return Task(other.id, {**other.kwargs, KEYWORD: names}) if names else other


def check_squad(squad: Squad, task: Task, backend: str, algorithm: Algorithm) -> None:
    """Raise GraftError where ``squad`` does not fit the teams of ``task``, or the backend and its algorithm."""
    if not BACKENDS[backend].multi_policy:
        others = " or ".join(f"backend: {name}" for name, entry in BACKENDS.items() if entry.multi_policy)
        raise GraftError(f"policy_mapping of {task}: {backend} trains one policy at a time; use {others}.")
    if TEAM not in task.kwargs:
        raise GraftError(
            f"policy_mapping of {task}: name the team whose policy is pretrained or transferred, "
            f"kwargs: {{{TEAM}: ...}}; allowed: {', '.join(squad.policy_mapping)}."
        )
    from graft.agents.rllib.algorithm import Algorithm as Trainer
    from graft.agents.rllib.multi_agent import SquadGame
    from graft.agents.rllib.policy_mapping import DEFAULT_POLICY, policy_mapping
    from graft.agents.rllib.squad_runner import check_algorithm

    assert isinstance(algorithm, Trainer)
    check_algorithm(algorithm)
    for name in squad.policy_mapping.values():
        if name == DEFAULT_POLICY or name.startswith("__"):
            raise GraftError(f"policy_mapping of {task}: '{name}' is RLlib's own name; choose another one.")
    # Names are for the task's own team: the game of all teams is made without them.
    plain = Task(task.id, {name: value for name, value in task.kwargs.items() if name not in (TEAM, KEYWORD)})
    game = SquadGame({"task": plain})
    try:
        policy_mapping(game, squad.policy_mapping)
        game.schemas_of(str(task.kwargs[TEAM]))
    finally:
        game.close()
    for policy, theirs in squad.partners(task).items() if squad.share_encoder else ():
        if schemas(theirs).observation != schemas(task).observation:
            own = squad.policy_mapping[str(task.kwargs[TEAM])]
            raise GraftError(
                f"share_encoder of {task}: {policy} sees something else than {own}; "
                f"leave share_encoder out, so that each has an encoder of its own."
            )
