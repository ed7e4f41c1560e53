"""What RLlib's own runner records of squads: everything that a plain loop sees, and each end as what it was."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule
from support.squad_fixtures import PURSUIT, TIDE, Life, Tide, as_module, assert_same, played

from graft.agents.rllib.multi_agent import SquadGame
from graft.agents.rllib.policy_mapping import configure_squad
from graft.envs import Task
from graft.envs.builtin.arena import pettingzoo_env
from graft.envs.supervision.restarts import derived_seed

# RLlib registers its environment anew for each runner of a process.
pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment rllib-multi-agent-env-v0:UserWarning")


@pytest.fixture(autouse=True)
def tide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module ``tide_v0``."""
    as_module(monkeypatch)


class Random(RandomRLModule):
    """RLlib's own, which does not say what its tensors are."""

    framework = "torch"


class Recorded(NamedTuple):
    """A life as RLlib recorded it: ``end`` is empty where the recording stopped before."""

    life: Life
    actions: list[int]
    policy: str


def recorded(task: Task, plays: Any, steps: int, fragment: int) -> dict[str, list[Recorded]]:
    """Agent -> its lives, of ``steps`` steps of RLlib's runner, joined from samples of ``fragment`` steps."""
    config = PPOConfig().env_runners(num_env_runners=0)
    mapping = configure_squad(config, {"task": task.to_json()}, plays, seed=3)
    specs = {
        name: RLModuleSpec(module_class=Random, observation_space=s.observation.space(), action_space=s.action.space())
        for name, s in mapping.schemas.items()
    }
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    lives: dict[str, dict[str, Recorded]] = defaultdict(dict)
    for _ in range(steps // fragment):
        for episode in runner.sample(num_timesteps=fragment):
            for agent, part in episode.agent_episodes.items():
                of_agent = lives[agent]
                if part.id_ not in of_agent:
                    first = Life([part.get_observations(0)], [], "")
                    of_agent[part.id_] = Recorded(first, [], part.module_id)
                one = of_agent[part.id_]
                one.life.obs.extend(part.get_observations()[1:])
                one.life.rewards.extend(part.get_rewards().tolist())
                one.actions.extend(part.get_actions().tolist())
                end = "died" if part.is_terminated else "cut" if part.is_truncated else ""
                of_agent[part.id_] = one._replace(life=one.life._replace(end=end))
    runner.stop()
    return {agent: list(of_agent.values()) for agent, of_agent in lives.items()}


@pytest.mark.parametrize(
    ("task", "plays", "fragment"),
    [
        (Task(PURSUIT, {"hunters": 2, "prey": [1, 4], "max_steps": 30}), {"hunters": "wolf", "prey": "prey"}, 16),
        (Task(TIDE), "all", 160),
        (Task(TIDE, {"wide": True}), {"crab": "crab", "gull": "gull"}, 3),
    ],
    ids=str,
)
def test_rllibs_runner_records_what_a_plain_loop_plays(task: Task, plays: Any, fragment: int) -> None:
    """Its actions, played again from the same seeds, give all that it recorded; samples end in the midst of games."""
    lives = recorded(task, plays, 160, fragment)
    tides = task.id == TIDE
    plain = Tide(**task.kwargs) if tides else pettingzoo_env.parallel_env(**task.kwargs)
    compared: list[str] = []
    for n in range(40):
        of_game: dict[str, Recorded] = {}

        def again(agents: Any, time: int, of_game: dict[str, Recorded] = of_game) -> dict[str, int]:
            for agent in agents:
                if agent not in of_game:
                    of_game[agent] = lives[agent].pop(0)
            return {agent: of_game[agent].actions.pop(0) for agent in agents}

        seed = 3 if n == 0 else derived_seed(3, n) if tides else None
        try:
            theirs = played(plain, plain.reset(seed=seed), again)
        except IndexError:  # the recording has stopped
            break
        mine = {agent: one.life for agent, one in of_game.items()}
        assert_same(mine, theirs)
        assert {agent: sum(life.rewards) for agent, life in mine.items()} == {
            agent: sum(life.rewards) for agent, life in theirs.items()
        }
        for agent, one in of_game.items():
            assert one.policy == (plays if isinstance(plays, str) else plays[SquadGame({"task": task}).team_of(agent)])
        compared += [life.end for life in mine.values()]
    assert len(compared) > (60 if tides else 12)
    assert not tides or compared.count("cut") > 10


def test_what_rllib_makes_of_flags_in_the_last_step() -> None:
    """Why truncated agents have none of their own there; when this fails, `SquadGame` can give them theirs."""
    spaces = {"a": gym.spaces.Discrete(9), "b": gym.spaces.Discrete(9)}

    def ended(flags: dict[str, bool]) -> MultiAgentEpisode:
        episode = MultiAgentEpisode(observation_space=spaces, action_space=spaces)
        episode.add_env_reset(observations={"a": 0, "b": 0})
        both = {"a": 1, "b": 1}
        episode.add_env_step(both, both, both, terminateds={"__all__": False}, truncateds=flags)
        return episode

    assert ended({"a": True, "b": True, "__all__": True}).agent_episodes["a"].is_terminated
    alone = ended({"__all__": True})
    assert alone.agent_episodes["a"].is_truncated
    assert not alone.agent_episodes["a"].is_terminated
