"""Which policy plays which team of a squad, as RLlib wants to be told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from graft.agents.rllib.multi_agent import SquadGame
from graft.envs.core.schema import Schemas
from graft.envs.core.teams import schema_difference
from graft.errors import GraftError, unknown

DEFAULT_POLICY = "default_policy"
"""RLlib takes a config whose only policy is called so for a single agent's."""


@dataclass(frozen=True)
class PolicyMapping:
    """RLlib's ``policy_mapping_fn``: the policy that plays an agent. It holds plain data, and can be pickled.

    Attributes:
        of_agent: agent -> policy. schemas: policy -> what it sees and does.
    """

    of_agent: Mapping[str, str]
    schemas: Mapping[str, Schemas]

    def __call__(self, agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
        """The policy of an agent; raises GraftError for one that there is not."""
        if agent_id not in self.of_agent:
            raise unknown("agent", str(agent_id), self.of_agent)
        return self.of_agent[agent_id]


def policy_mapping(
    game: SquadGame, plays: str | Mapping[str, str], policies: Collection[str] | None = None
) -> PolicyMapping:
    """Who plays whom.

    Args:
        game: whose teams there are.
        plays: team -> policy, ``{hunters: hunters, prey: prey}``, or one policy that plays all teams.
        policies: names of the policies that there are; None for those that ``plays`` names.
    Raises:
        GraftError: an unknown team or policy, a team that nobody plays, or teams that see or do different things and
            are played by one policy.
    """
    if not isinstance(plays, str | Mapping):
        raise GraftError(f"policies={plays!r} of {game.task} is not allowed; give one name, or a name for each team.")
    of_team = dict.fromkeys(game.teams, plays) if isinstance(plays, str) else dict(plays)
    for team in of_team:
        if team not in game.teams:
            raise unknown(f"team of {game.task}", str(team), game.teams)
    missing = [team for team in game.teams if team not in of_team]
    if missing:
        raise GraftError(f"Nobody plays {', '.join(missing)} of {game.task}; name a policy for each team that learns.")
    players: dict[str, str] = {}  # policy -> the first team that it plays
    for team in game.teams:
        policy = of_team[team]
        if not isinstance(policy, str) or (policies is not None and policy not in policies):
            raise unknown(f"policy of {team}", str(policy), policies or ["any word"])
        first = players.setdefault(policy, team)
        mine, theirs = game.schemas_of(first), game.schemas_of(team)
        if mine != theirs:
            raise GraftError(
                f"Policy '{policy}' cannot play {first} and {team}: {first} {schema_difference(mine, theirs, team)}; "
                f"give each team a policy of its own."
            )
    if set(players) == {DEFAULT_POLICY}:
        raise GraftError(f"RLlib takes a policy called '{DEFAULT_POLICY}' for a single agent's; choose another name.")
    return PolicyMapping(
        {agent: of_team[game.team_of(agent)] for agent in game.possible_agents},
        {policy: game.schemas_of(team) for policy, team in players.items()},
    )


def configure_squad(
    config: AlgorithmConfig, game: Mapping[str, Any], plays: str | Mapping[str, str], seed: int
) -> PolicyMapping:
    """Let ``config`` play a squad: sets its environment, its policies, who plays whom, and the seed.

    RLlib's check of environments is left out: it seeds every copy with 42 and plays a step, and a config without a seed
    would go on from there in all workers alike. Tests make that check.

    Args:
        config: of an algorithm; changed in place.
        game: `SquadGame`'s config. plays: as in `policy_mapping`.
    Raises:
        GraftError: as `SquadGame` and `policy_mapping`.
    """
    example = SquadGame(game)
    try:
        mapping = policy_mapping(example, plays)
    finally:
        example.close()
    config.environment(SquadGame, env_config=dict(game), disable_env_checking=True)
    config.multi_agent(policies=set(mapping.schemas), policy_mapping_fn=mapping)
    config.debugging(seed=seed)
    return mapping
