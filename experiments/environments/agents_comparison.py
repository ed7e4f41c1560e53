"""`compare` of PettingZoo's environments, whose agents are rows: parallel ones, and turn-based ones."""

from __future__ import annotations

import importlib
from contextlib import closing
from typing import Any

from graft.envs.adapters.pettingzoo.adapter import PREFIX
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.factory import make
from graft.experiments.environments.played import SEED, Played, first_difference, grafts, librarys, seed_all, taken
from graft.experiments.environments.shown import copied, seen, shown_space

EPISODES = 10


def compare_agents(task: Task, steps: int) -> dict[str, Any]:
    """`compare` of a PettingZoo environment, all of whose agents are rows: until one of them dies or is done.

    Where that is soon, the same with other seeds, `EPISODES` at most.
    """
    module = importlib.import_module(task.id.removeprefix(PREFIX))
    together = hasattr(module, "parallel_env")
    single = (module.parallel_env if together else module.env)(**librarys(task))
    agents = list(single.possible_agents)
    result, count, ended, seed = "equal", 0, 0, SEED
    with closing(make(task, len(agents), SEED)) as env:
        schema = env.observation_schema
        space = shown_space(single.observation_space(agents[0]), schema)
        while count < steps * len(agents) and seed < SEED + EPISODES and result == "equal":
            played, streams = _until_one_ends(*grafts(env, steps, seed))
            expected = (_plain if together else _plain_turns)(single, agents, env.schemas, streams, seed)
            if (difference := first_difference(schema, space, False, played, expected)) is not None:
                result = f"another {difference}"
            count += sum(map(len, played))
            ended += int(any(one[-1].terminated or one[-1].truncated for one in played))
            seed += 1
        faults, clipped = str(env.faults) if env.faults.total else "", env.faults.clipped
    single.close()
    return {"result": result, "steps": count, "episodes": ended, "faults": faults, "clipped": clipped}


def _until_one_ends(played: list[list[Played]], streams: list[list[Any]]) -> tuple[Any, Any]:
    ends = (number for one in played for number, step in enumerate(one, 1) if step.terminated or step.truncated)
    first = min(ends, default=len(played[0]))
    return [one[:first] for one in played], [one[:first] for one in streams]


def _plain(single: Any, agents: list[str], schemas: Schemas, streams: list[list[Any]], seed: int) -> list[list[Played]]:
    """The same actions in a loop over the library's own environment."""

    def shown(agent: str, ended: bool = False) -> Any:
        if schemas.observation.kind != "masked":
            return copied(obs[agent])
        return seen(obs[agent], infos.get(agent, {}), ended)

    played: list[list[Played]] = [[] for _ in agents]
    seed_all()
    obs, infos = single.reset(seed=seed)
    for chosen in zip(*streams, strict=True):
        before = {agent: shown(agent) for agent in agents}
        given = {a: taken(single.action_space(a), schemas.action, x) for a, x in zip(agents, chosen, strict=True)}
        obs, rewards, terminated, truncated, infos = single.step(given)
        for one, a in zip(played, agents, strict=True):
            ends = bool(terminated[a]), bool(truncated[a]) and not terminated[a]
            one.append(Played(before[a], float(rewards[a]), *ends, shown(a, any(ends))))
    return played


def _plain_turns(
    single: Any, agents: list[str], schemas: Schemas, streams: list[list[Any]], seed: int
) -> list[list[Played]]:
    """The same in a game in which agents take turns: of the actions of a step, that of the agent whose turn it is."""

    def shown(agent: str) -> Any:
        idle = agent != single.agent_selection or single.terminations[agent] or single.truncations[agent]
        raw = single.observe(agent)
        return seen(raw, single.infos[agent], idle) if schemas.observation.kind == "masked" else copied(raw)

    played: list[list[Played]] = [[] for _ in agents]
    seed_all()
    single.reset(seed=seed)
    for chosen in zip(*streams, strict=True):
        before, turn = {agent: shown(agent) for agent in agents}, single.agent_selection
        single.step(taken(single.action_space(turn), schemas.action, chosen[agents.index(turn)]))
        for one, a in zip(played, agents, strict=True):
            ends = bool(single.terminations[a]), bool(single.truncations[a]) and not single.terminations[a]
            one.append(Played(before[a], float(single.rewards[a]), *ends, shown(a)))
    return played
