"""Which policy plays which team."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from typing import Any

import pytest
from ray.rllib.algorithms.ppo import PPOConfig

from graft.agents.rllib.multi_agent import SquadGame
from graft.agents.rllib.policy_mapping import configure_squad, policy_mapping
from graft.envs import GraftError, Task

TASK = Task("Graft/Pursuit-v0", {"hunters": 2, "prey": 1})


@pytest.fixture(scope="module")
def game() -> SquadGame:
    return SquadGame({"task": TASK})


@pytest.mark.parametrize(
    ("plays", "expected"),
    [
        ({"hunters": "wolf", "prey": "deer"}, ["wolf", "wolf", "deer"]),
        ({"hunters": "one", "prey": "one"}, ["one"] * 3),
        ("one", ["one"] * 3),
    ],
)
def test_every_agent_has_the_policy_of_its_team(game: SquadGame, plays: Any, expected: list[str]) -> None:
    mapping = policy_mapping(game, plays)
    assert [game.team_of(agent) for agent in game.possible_agents] == ["hunters", "hunters", "prey"]
    assert [mapping(agent, None) for agent in game.possible_agents] == expected
    assert mapping.schemas == dict.fromkeys(expected, game.schemas_of("prey"))
    assert pickle.loads(pickle.dumps(mapping)) == mapping
    with pytest.raises(GraftError, match=r"Unknown agent 'hunter'.*Did you mean 'hunter_"):
        mapping("hunter", None)


@pytest.mark.parametrize(
    ("plays", "text"),
    [
        ({"hunter": "a", "prey": "b"}, "Unknown team of Pursuit.* 'hunter'.*Did you mean 'hunters'"),
        ({"hunters": "a"}, "Nobody plays prey of Pursuit"),
        ({"hunters": "a", "prey": "bb"}, "Unknown policy of prey 'bb'; allowed: a, b"),
        ({"hunters": "a", "prey": 3}, "Unknown policy of prey '3'"),
        ("c", "Unknown policy of hunters 'c'"),
        (["a"], r"policies=\['a'\] of Pursuit.* is not allowed; give one name, or a name for each team"),
    ],
)
def test_what_is_refused(game: SquadGame, plays: Any, text: str) -> None:
    with pytest.raises(GraftError, match=text):
        policy_mapping(game, plays, ["a", "b"])


def test_a_name_that_rllib_takes_for_a_single_agents_policy(game: SquadGame) -> None:
    with pytest.raises(GraftError, match="'default_policy' for a single agent's"):
        policy_mapping(game, "default_policy")
    assert policy_mapping(game, {"hunters": "default_policy", "prey": "b"})("prey_0") == "b"


@pytest.mark.skipif(find_spec("mpe2") is None, reason="mpe2 is missing: pip install 'graft-rl[games]'")
def test_teams_that_see_different_things_need_policies_of_their_own() -> None:
    game = SquadGame({"task": Task("pettingzoo:mpe2.simple_tag_v3")})
    with pytest.raises(GraftError, match=r"cannot play adversary and agent: adversary sees vector of shape \(16,\)"):
        policy_mapping(game, "one")
    schemas = policy_mapping(game, {"adversary": "a", "agent": "b"}).schemas
    assert [schemas[name].observation.shape for name in "ab"] == [(16,), (14,)]


def test_only_teams_that_are_shown_are_played() -> None:
    game = SquadGame({"task": Task(TASK.id, {"team": "prey"})})
    assert policy_mapping(game, "one").of_agent == dict.fromkeys(game.possible_agents, "one")
    with pytest.raises(GraftError, match=r"Unknown team of .* 'hunters'; allowed: prey"):
        policy_mapping(game, {"hunters": "a", "prey": "b"})


def test_a_config_is_set_up_with_a_seed_and_without_a_check_that_would_seed_all_alike() -> None:
    config = PPOConfig()
    mapping = configure_squad(config, {"task": TASK}, {"hunters": "wolf", "prey": "deer"}, seed=5)
    assert config.is_multi_agent
    assert (set(config.policies), config.policy_mapping_fn) == ({"wolf", "deer"}, mapping)
    assert (config.env, config.seed, config.disable_env_checking) == (SquadGame, 5, True)
    assert config.env_config == {"task": TASK}
