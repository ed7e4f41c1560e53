"""Squads whose teams all learn: which policy plays which team."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.envs.core.naming import KEYWORD, fitting, split
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError

if TYPE_CHECKING:  # which needs torch
    from graft.agents.training.algorithm import Algorithm

TEAM = "team"
"""The keyword of a task for squads that says which of its teams a stage's network plays."""

ABLE = "rllib"
"""The backend that trains several policies at once."""


@dataclass(frozen=True)
class Squad:
    """Who plays whom in a task whose teams all learn.

    Attributes:
        plays: team -> policy, for each team.
        shared: whether all policies have the encoder of the one that plays the task's team.
    """

    plays: Mapping[str, str]
    shared: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"policy_mapping": dict(self.plays), "share_encoder": self.shared}

    def others(self, task: Task) -> dict[str, Task]:
        """The policies beside the one that plays the task's team, each with the task of the first team it plays."""
        mine = self.plays[str(task.kwargs[TEAM])]
        found: dict[str, Task] = {}
        for team, policy in self.plays.items():
            if policy != mine and policy not in found:
                found[policy] = _of_team(task, team)
        return found


def _of_team(task: Task, team: str) -> Task:
    """``task`` for another of its teams, with those of its names that hold for what that one sees and does."""
    plain, given = split(task)
    other = Task(plain.id, {**plain.kwargs, TEAM: team})
    if not given:
        return other
    names = fitting(given, schemas(plain), schemas(other))
    return Task(other.id, {**other.kwargs, KEYWORD: names}) if names else other


def check(squad: Squad, task: Task, backend: str, algorithm: Algorithm) -> None:
    """Raise GraftError where the teams of ``task`` cannot be played so, or not by this backend and its algorithm."""
    if backend != ABLE:
        raise GraftError(f"policy_mapping of {task}: {backend} trains one policy at a time; use backend: {ABLE}.")
    if TEAM not in task.kwargs:
        raise GraftError(
            f"policy_mapping of {task}: name the team whose policy is pretrained or transferred, "
            f"kwargs: {{{TEAM}: ...}}; allowed: {', '.join(squad.plays)}."
        )
    from graft.agents.rllib.algorithm import Algorithm as Trainer
    from graft.agents.rllib.multi_agent import SquadGame
    from graft.agents.rllib.policy_mapping import SINGLE, policy_mapping
    from graft.agents.rllib.squad_runner import check_algorithm

    assert isinstance(algorithm, Trainer)
    check_algorithm(algorithm)
    for name in squad.plays.values():
        if name == SINGLE or name.startswith("__"):
            raise GraftError(f"policy_mapping of {task}: '{name}' is RLlib's own name; choose another one.")
    # Names are for the task's team; what else it sees and does under them, `envs.make` says.
    plain = Task(task.id, {name: value for name, value in task.kwargs.items() if name not in (TEAM, KEYWORD)})
    game = SquadGame({"task": plain})
    try:
        policy_mapping(game, squad.plays)
        game.schemas_of(str(task.kwargs[TEAM]))
    finally:
        game.close()
    if not squad.shared:
        return
    mine = schemas(task).observation
    for policy, theirs in squad.others(task).items():
        if schemas(theirs).observation != mine:
            raise GraftError(
                f"share_encoder of {task}: {policy} sees something else than {squad.plays[str(task.kwargs[TEAM])]}; "
                f"leave share_encoder out, so that each has an encoder of its own."
            )
