"""Squads in RLlib play the same games as PettingZoo's own loop and as Graft's rows."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from support.squad_fixtures import (
    AGENTS,
    PURSUIT,
    TIDE,
    Life,
    Tide,
    as_module,
    assert_same,
    by_sixes,
    by_threes,
    chosen,
    game,
    played,
)

from graft import envs
from graft.agents.rllib.multi_agent import SquadGame
from graft.envs import GraftError, Task
from graft.envs.builtin.arena import pettingzoo_env
from graft.envs.core.faults import TooManyFaults
from graft.envs.supervision.restarts import derived_seed

needs_mpe = pytest.mark.skipif(find_spec("mpe2") is None, reason="mpe2 is missing: pip install 'graft-rl[games]'")
TAG = "pettingzoo:mpe2.simple_tag_v3"
TABLE = {"crab_0": [0, 5, "cut"], "crab_1": [2, 4, "died"], "gull_0": [0, 2, "died"], "gull_1": [0, 3, "left"]}
RELAY = {"crab_0": [0, 2, "cut"], "gull_0": [2, 4, "died"], "crab_1": [4, 5, "died"], "gull_1": [4, 7, "cut"]}


@pytest.fixture(autouse=True)
def tide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module ``tide_v0``."""
    as_module(monkeypatch)


def shown(env: SquadGame, first: tuple[Any, Any], actions: Any, time: int = 0) -> dict[str, Life]:
    """The same of an episode of a `SquadGame` that begins at ``time``; checks what RLlib relies on."""
    obs, infos = first
    lives: dict[str, Life] = {}
    over = cut_off = False
    while not (over or cut_off):
        acting = [agent for agent in obs if agent not in lives or not lives[agent].end]
        assert list(obs) == list(infos) == env.agents == [agent for agent in env.possible_agents if agent in obs]
        assert acting
        for agent in acting:
            lives.setdefault(agent, Life([obs[agent]], [], ""))
        obs, rewards, died, cut, infos = env.step(actions(acting, time))
        time += 1
        over, cut_off = died.pop("__all__"), cut.pop("__all__")
        assert list(rewards) == list(died) == acting
        assert all(env.observation_spaces[agent].contains(row) for agent, row in obs.items())
        for agent in acting:
            lives[agent].rewards.append(rewards[agent])
            lives[agent].obs.append(obs[agent])
            end = "died" if died[agent] else "cut" if cut.get(agent, cut_off) else ""
            lives[agent] = lives[agent]._replace(end=end)
    assert not (over and cut_off)
    assert all(life.end for life in lives.values())
    assert env.agents == list(rewards), "nobody new is shown in the last step"
    return lives


@pytest.mark.parametrize(
    ("name", "task_id", "options"),
    [
        ("pursuit", PURSUIT, {"hunters": 2, "prey": [1, 4]}),
        ("pursuit", PURSUIT, {"hunters": 3, "prey": 2, "max_steps": 15}),
        ("gather", "Graft/TeamGather-v0", {"reds": [1, 3], "blues": 2}),
    ],
)
def test_our_arenas_play_as_their_pettingzoo_form_does(name: str, task_id: str, options: dict[str, Any]) -> None:
    env, plain = game(task_id, **options), pettingzoo_env.parallel_env(name, **options)
    assert env.possible_agents == plain.possible_agents
    assert env.observation_spaces == plain.observation_spaces
    assert env.action_spaces == plain.action_spaces
    for seed in (8, None, None, 2, None):
        mine, theirs = env.reset(seed=seed), plain.reset(seed=seed)
        assert_same(shown(env, mine, by_sixes), played(plain, theirs, by_sixes))


def test_agents_come_and_go_as_they_do_in_a_plain_loop() -> None:
    """Random comings and goings; game n of a seed has the seed that `PettingZooBatch` derives from it."""
    env, plain = game(TIDE), Tide()
    ends: list[str] = []
    env.reset(seed=40)
    for n in range(60):
        first, theirs = env.reset(), played(plain, plain.reset(seed=derived_seed(40, n + 1)), by_threes)
        time, mine = 0, {}
        while True:
            part = shown(env, first, by_threes, time)
            time += max(len(life.rewards) for life in part.values())
            assert not part.keys() & mine.keys()
            mine |= part
            if mine.keys() == theirs.keys():
                break
            first = env.reset()  # newcomers alone: the same game goes on
        assert_same(mine, theirs)
        ends += [life.end for life in mine.values()]
    assert min(ends.count("died"), ends.count("cut")) > 30


@needs_mpe
def test_tag_plays_as_it_does_alone() -> None:
    from mpe2 import simple_tag_v3

    env, plain = game(TAG, max_cycles=8), simple_tag_v3.parallel_env(max_cycles=8)
    assert env.possible_agents == ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    assert [env.observation_spaces[agent].shape[0] for agent in env.possible_agents] == [16, 16, 16, 14]

    def actions(agents: Any, time: int) -> dict[str, int]:
        return chosen(agents, time, 5)

    for seed in (4, 9):
        mine = shown(env, env.reset(seed=seed), actions)
        assert_same(mine, played(plain, plain.reset(seed=seed), actions))
        assert {life.end for life in mine.values()} == {"cut"}


def test_agents_end_one_by_one_enter_late_and_leave_without_a_word() -> None:
    env = game(TIDE, table=TABLE)
    obs, infos = env.reset()
    assert env.possible_agents == AGENTS, "whatever the order in which the environment lists them"
    assert (list(obs), infos) == (["crab_0", "gull_0", "gull_1"], {"crab_0": {}, "gull_0": {}, "gull_1": {}})
    there = (["crab_0", "gull_0", "gull_1"], ["crab_0", "gull_0", "gull_1"], ["crab_0", "crab_1", "gull_1"])
    steps = [env.step(dict.fromkeys(agents, 0)) for agents in there]
    assert [list(step[0]) for step in steps] == [
        ["crab_0", "gull_0", "gull_1"],
        ["crab_0", "crab_1", "gull_0", "gull_1"],
        ["crab_0", "crab_1", "gull_1"],
    ]
    assert steps[1][2] == {"crab_0": False, "gull_0": True, "gull_1": False, "__all__": False}
    assert steps[2][2] == {"crab_0": False, "crab_1": False, "gull_1": True, "__all__": False}
    assert steps[2][0]["gull_1"][1] == 2, "the last that was seen of it"
    assert list(steps[1][1]) == ["crab_0", "gull_0", "gull_1"], "who has not acted earns nothing"
    assert env.step({"crab_0": 0, "crab_1": 0})[2]["crab_1"]
    obs, _, died, cut, _ = env.step({"crab_0": 0})
    assert (list(obs), died, cut) == (["crab_0"], {"crab_0": False, "__all__": False}, {"__all__": True})
    with pytest.raises(GraftError, match="call reset before the next step"):
        env.step({"crab_0": 0})


def test_an_arena_says_who_has_won() -> None:
    env = game(PURSUIT, hunters=3, prey=1, walls=0, max_steps=400)
    said = set()
    for _ in range(5):
        obs, _ = env.reset()
        over = False
        while not over:
            _, _, died, _, infos = env.step({agent: env.action_spaces[agent].sample() for agent in obs})
            over = died["__all__"]
        said |= {str(info) for info in infos.values()}
    assert "{'winner': 'hunters'}" in said


TASKS = [
    Task(PURSUIT, {"team": "hunters", "hunters": [1, 3], "prey": 2}),
    Task(PURSUIT, {"team": "prey", "hunters": 3, "prey": [1, 4]}),
    Task("Graft/TeamGather-v0", {"team": "reds", "reds": [1, 4], "opponents": "still"}),
    Task(PURSUIT, {"team": "all", "hunters": 2, "prey": 3}),
    Task(TIDE, {"team": "crab", "wide": True}),
    Task(TIDE, {"team": "gull", "wide": True, "opponents": "still"}),
    Task(TIDE, {"team": "gull", "breaks": 4, "faults": {"limit": 100}}),
    pytest.param(Task(TAG, {"team": "adversary", "max_cycles": 6}), marks=needs_mpe),
]


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_agents_see_and_earn_what_rows_do(task: Task) -> None:
    """The same stream of games, opponents included; while rows wait for their next game, this one skips ahead."""
    env = game(task.id, **task.kwargs)
    rows = envs.make(task, len(env.possible_agents), 3)
    assert [env.schemas_of(env.team_of(agent)) for agent in env.possible_agents] == [rows.schemas] * rows.num_envs
    (obs, _), (shown_rows, infos) = env.reset(), rows.reset()
    over = False
    for time in range(120):
        alive = dict(zip(env.possible_agents, infos["alive"], strict=True))
        if over:
            while not infos["alive"].any():
                shown_rows, *_, infos = rows.step(np.zeros(rows.num_envs, np.int64))
            alive = dict(zip(env.possible_agents, infos["alive"], strict=True))
            obs, _ = env.reset()
            assert list(obs) == [agent for agent in alive if alive[agent]]
        acting = [agent for agent in alive if alive[agent]]
        for agent in acting:
            np.testing.assert_array_equal(obs[agent], shown_rows[env.possible_agents.index(agent)])
        actions = chosen(env.possible_agents, time, 3)
        obs, rewards, died, cut, _ = env.step({agent: actions[agent] for agent in acting})
        shown_rows, earned, ended, cut_rows, infos = rows.step(np.array([actions[a] for a in env.possible_agents]))
        over = died["__all__"] or cut["__all__"]
        for agent in acting:
            r = env.possible_agents.index(agent)
            assert (rewards[agent], died[agent]) == (earned[r], ended[r])
            assert cut.get(agent, cut["__all__"]) == cut_rows[r]
            if ended[r] or cut_rows[r]:
                np.testing.assert_array_equal(obs[agent], infos["final_obs"][r])
    assert env.faults.total == rows.faults.total
    assert bool(rows.faults.total) == ("breaks" in task.kwargs)


def test_a_fault_truncates_all_in_play_at_what_they_saw_last() -> None:
    env = game(TIDE, table=TABLE, breaks=2, faults={"limit": 2})
    first, _ = env.reset()
    before = env.step(dict.fromkeys(first, 0))[0]
    obs, rewards, died, cut, _ = env.step(dict.fromkeys(first, 0))
    assert (rewards, cut) == (dict.fromkeys(first, 0.0), {"__all__": True})
    assert not any(died.values())
    assert all((obs[agent] == before[agent]).all() for agent in first)
    assert (env.faults["raised"], list(env.reset()[0])) == (1, list(first))
    env.step(dict.fromkeys(first, 0))
    env.step(dict.fromkeys(first, 0))
    env.reset()
    env.step(dict.fromkeys(first, 0))
    with pytest.raises(TooManyFaults, match="3 times within"):
        env.step(dict.fromkeys(first, 0))


def test_newcomers_alone_go_on_in_an_episode_of_their_own() -> None:
    env = game(TIDE, table=RELAY)
    parts = [list(shown(env, env.reset(), by_threes)) for _ in range(5)]
    assert parts == [["crab_0"], ["gull_0"], ["crab_1", "gull_1"], ["crab_0"], ["gull_0"]]


def test_seeds_decide_all_that_follows_and_differ_between_workers() -> None:
    def games(env: SquadGame, seed: int | None) -> list[Any]:
        first = env.reset(seed=seed)
        found = [shown(env, first, by_sixes)]
        found.append(shown(env, env.reset(), by_sixes))
        obs, _ = env.reset()
        env.step(chosen(obs, 0, 6))
        found.append(shown(env, env.reset(), by_sixes))  # in the middle of a game
        return [[(agent, np.stack(life.obs).tolist(), life.rewards) for agent, life in one.items()] for one in found]

    env, other, third = (game(PURSUIT, worker, max_steps=20) for worker in (0, 0, 2))
    expected = games(env, 11)
    assert games(other, 11) == games(env, 11) == expected
    assert games(other, None) == games(env, None) != expected, "numbers that go on go on alike"
    assert games(env, 3) == games(game(PURSUIT, max_steps=20), None), "the config's own seed is 3"
    assert games(third, 11) == games(env, derived_seed(11, 2)) != expected
    assert len({str(one) for one in expected}) == 3
    plain = SquadGame({"task": Task(PURSUIT, {"max_steps": 20}), "worker_index": 2, "seed": 11})
    assert games(plain, None) == games(third, 11)


def test_a_picture_of_the_game_and_at_its_end_the_last_one() -> None:
    options = {"max_steps": 10, "hunters": 1, "prey": 1}
    env = SquadGame({"task": Task(PURSUIT, options), "render_mode": "ansi"})
    plain = pettingzoo_env.parallel_env("pursuit", "ansi", **options)
    for seed in (1, None):
        env.reset(seed=seed)
        plain.reset(seed=seed)
        while plain.agents:
            assert env.render() == plain.render()
            env.step(dict.fromkeys(plain.agents, 1))
            plain.step(dict.fromkeys(plain.agents, 1))
        assert env.render() == plain.render()
    assert game(PURSUIT).render() is None


@pytest.mark.parametrize(
    "task",
    [
        Task(PURSUIT),
        Task(PURSUIT, {"team": "prey"}),
        Task("pettingzoo:graft.envs.builtin.arena.pettingzoo_env", {"hunters": [1, 3]}),
        Task(TIDE, {"table": RELAY}),
        Task(TIDE, {"table": {"crab_0": [0, 1, "cut"], "gull_0": [0, 2, "died"], "gull_1": [1, 3, "left"]}}),
        pytest.param(Task(TAG), marks=needs_mpe),
    ],
    ids=str,
)
def test_rllibs_own_check_passes(task: Task) -> None:
    check_multiagent_environments(SquadGame({"task": task}))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"task": Task(PURSUIT), "sead": 1}, "Unknown setting of a squad's game 'sead'.*Did you mean 'seed'"),
        ({}, "task=None is not allowed"),
        ({"task": Task(PURSUIT), "seed": -1}, "Seed -1 is not allowed"),
        ({"task": Task("Graft/Gather-v0")}, "Task Gather is not for squads; ids of those begin with: Graft/Pursuit"),
        ({"task": Task(PURSUIT, {"team": "pray"})}, "Unknown team 'pray'.*Did you mean 'prey'"),
        ({"task": Task(PURSUIT, {"opponents": "stil"})}, "Unknown rule for opponents 'stil'"),
        ({"task": Task(PURSUIT, {"team": ["prey"]})}, "team=.'prey'. is not allowed; it is a word such as 'all'"),
        ({"task": Task(PURSUIT, {"hunter": 2})}, "Unknown keyword of Graft/Pursuit-v0 'hunter'"),
        ({"task": Task(TIDE, {"depth": 2})}, "Unknown keyword of pettingzoo:tide_v0 'depth'"),
    ],
)
def test_what_is_refused(config: dict[str, Any], text: str) -> None:
    with pytest.raises(GraftError, match=text):
        SquadGame(config)


def test_actions_must_be_those_of_the_agents_in_play() -> None:
    env = game(TIDE, table=TABLE)
    with pytest.raises(GraftError, match="call reset"):
        env.step({})
    env.reset()
    with pytest.raises(GraftError, match="one action of each of crab_0, gull_0, gull_1; these acted: crab_0, crab_1"):
        env.step({"crab_0": 0, "crab_1": 0})
    with pytest.raises(GraftError, match="Seed -1 is not allowed"):
        env.reset(seed=-1)
    with pytest.raises(GraftError, match=r"Unknown agent of .* 'crab'.*Did you mean 'crab_"):
        env.team_of("crab")


def test_agents_that_come_back_after_their_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = game(TIDE, table={"crab_0": [0, 9, "died"], "gull_0": [0, 2, "died"]})
    there = Tide._there
    monkeypatch.setattr(Tide, "_there", lambda self: [*there(self), *(["gull_0"] if self.time == 4 else [])])
    env.reset()
    for acting in (["crab_0", "gull_0"], ["crab_0", "gull_0"], ["crab_0"]):
        env.step(dict.fromkeys(acting, 0))
    with pytest.raises(GraftError, match="brings back gull_0 after an end"):
        env.step({"crab_0": 0})


def test_names_that_a_task_gives_are_those_of_its_teams() -> None:
    task = Task(TIDE, {"schema": {"action": ["stay", "left", "right"]}})
    assert SquadGame({"task": task}).schemas_of("gull") == envs.make(task, 4, 0).schemas
    assert SquadGame({"task": task}).schemas_of("gull").action.names == ("stay", "left", "right")
