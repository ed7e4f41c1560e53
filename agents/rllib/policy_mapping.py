"""RLlib's policy mapping for squads: which policy plays which team."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from graft.agents.rllib.multi_agent import SquadGame
from graft.envs.core.schema import Schemas
from graft.envs.core.teams import schema_difference
from graft.errors import GraftError, unknown

DEFAULT_POLICY = "default_policy"  # RLlib takes a config whose only policy has this name for single-agent


@dataclass(frozen=True)
class PolicyMapping:
    """RLlib's ``policy_mapping_fn``, which can be pickled: agent -> policy, and the schemas of each policy."""

    of_agent: Mapping[str, str]
    schemas: Mapping[str, Schemas]

    def __call__(self, agent_id: Any, episode: Any = None, **kwargs: Any) -> str:
        if agent_id not in self.of_agent:
            raise unknown("agent", str(agent_id), self.of_agent)
        return self.of_agent[agent_id]


def policy_mapping(
    game: SquadGame, plays: str | Mapping[str, str], policies: Collection[str] | None = None
) -> PolicyMapping:
    """The mapping for ``game``.

    Args:
        plays: team -> policy, ``{hunters: hunters, prey: prey}``, or one policy for all teams.
        policies: names that are allowed; None for all.
    Raises:
        GraftError: an unknown team or policy, a team without a policy, or one policy for teams with different schemas.
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
    first_team: dict[str, str] = {}  # of each policy
    for team in game.teams:
        policy = of_team[team]
        if not isinstance(policy, str) or (policies is not None and policy not in policies):
            raise unknown(f"policy of {team}", str(policy), policies or ["any word"])
        first = first_team.setdefault(policy, team)
        mine, theirs = game.schemas_of(first), game.schemas_of(team)
        if mine != theirs:
            raise GraftError(
                f"Policy '{policy}' cannot play {first} and {team}: {first} {schema_difference(mine, theirs, team)}; "
                f"give each team a policy of its own."
            )
    if set(first_team) == {DEFAULT_POLICY}:
        raise GraftError(f"RLlib takes a policy called '{DEFAULT_POLICY}' for a single agent's; choose another name.")
    return PolicyMapping(
        {agent: of_team[game.team_of(agent)] for agent in game.possible_agents},
        {policy: game.schemas_of(team) for policy, team in first_team.items()},
    )


def configure_squad(
    config: AlgorithmConfig, game: Mapping[str, Any], plays: str | Mapping[str, str], seed: int
) -> PolicyMapping:
    """Set environment, policies, policy mapping and seed of ``config``, in place.

    RLlib's check of environments is switched off: it seeds every copy with 42, and without a seed all workers would go
    on from there alike.

    ``game`` is `SquadGame`'s config, ``plays`` as in `policy_mapping`; errors are those of both.
    """
    with contextlib.closing(SquadGame(game)) as example:
        mapping = policy_mapping(example, plays)
    config.environment(SquadGame, env_config=dict(game), disable_env_checking=True)
    config.multi_agent(policies=set(mapping.schemas), policy_mapping_fn=mapping)
    config.debugging(seed=seed)
    return mapping
