"""Matches between squads: games are counted for the right team, fairly, and misfits are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.adapters.mixture import mixture
from graft.envs.core.task import Task
from graft.envs.factory import make, schemas
from graft.errors import GraftError
from graft.experiments.match import main
from graft.experiments.playback import match
from graft.experiments.playback.match import Outcome

HUNTERS = Task("Graft/Pursuit-v0", {"team": "hunters"})
PREY = Task("Graft/Pursuit-v0", {"team": "prey"})


def network(seed: int = 1):
    return small_network(schemas(HUNTERS), seed=seed)


@pytest.mark.parametrize(("won", "games"), [(0, 5), (7, 10), (400, 500), (500, 500)])
def test_the_interval_is_wilsons(won: int, games: int):
    """The two shares p at which (won / games - p)^2 = z^2 p (1 - p) / games."""
    share, spread = won / games, 1.959964**2 / games
    roots = np.roots([1 + spread, -(2 * share + spread), share**2])
    assert Outcome(won, 0, games - won).interval() == pytest.approx(sorted(roots), abs=1e-6)


def test_every_game_is_counted_once():
    outcome = match.match(network(), HUNTERS, "random", 130, seed=0)
    assert outcome.games == 64 * 3
    assert min(outcome.won, outcome.lost) > 0


def test_two_sides_of_the_same_match_agree():
    hunters, prey = network(1), network(2)
    one = match.match(hunters, HUNTERS, prey, 192, seed=0, deterministic=True)
    other = match.match(prey, PREY, hunters, 192, seed=0, deterministic=True)
    assert (one.won, one.drawn, one.lost) == (other.lost, other.drawn, other.won)


def test_matches_repeat_with_their_seed():
    first, again, other = (match.match(network(), HUNTERS, "random", 64, seed) for seed in (3, 3, 4))
    assert first == again != other


def test_prey_survives_hunters_that_stand_still_more_often():
    still, moving = (match.match(network(), PREY, rule, 64, seed=0) for rule in ("still", "random"))
    assert still.games == moving.games == 64
    assert still.won > moving.won + 10


def test_an_agent_that_knows_more_sees_what_the_task_shows():
    more = mixture([Task("Graft/Hunt-v0", {"view": "ego", "radius": 4, "channels": "names"}), HUNTERS])
    wide = small_network(schemas(more))
    assert wide.schemas.observation.names != schemas(HUNTERS).observation.names
    assert match.match(wide, HUNTERS, wide, 8, seed=0).games == 8
    env = make(HUNTERS, 6, 0, observation=wide.schemas.observation)
    shown, plain = env.reset()[0], make(HUNTERS, 6, 0).reset()[0]
    choose = match.team_policy(wide, 0, True, schemas(HUNTERS).observation.names)
    expected = wide.act(torch.as_tensor(shown), torch.Generator(), True)
    assert choose(plain[None], None).tolist() == [expected.tolist()]


def test_games_without_winners_are_refused():
    pytest.importorskip("mpe2")
    tag = Task("pettingzoo:mpe2.simple_tag_v3", {"team": "agent"})
    with pytest.raises(GraftError, match="names no winner"):
        match.match(network(), tag, "random", 1, 0)


def test_tasks_without_two_sides_are_refused():
    with pytest.raises(GraftError, match="has no teams"):
        match.match(network(), Task("Graft/Gather-v0"), "random", 1, 0)
    with pytest.raises(GraftError, match="team=hunters or team=prey"):
        match.match(network(), Task("Graft/Pursuit-v0", {"team": "all"}), "random", 1, 0)


def test_the_command_prints_the_share(tmp_path, capsys):
    Checkpoint.of(network(), HUNTERS, parts={}).save(tmp_path / "stage" / "checkpoint")
    assert main([str(tmp_path / "stage"), "prey=2", "--games", "64"]) == 0
    expected = match.match(network(), Task(HUNTERS.id, {"team": "hunters", "prey": 2}), "random", 64, 0)
    text = capsys.readouterr().out
    assert f"won {expected.won / 64:.1%} [" in text
    assert "of 64 games" in text
    assert main([str(tmp_path / "stage"), "--against", str(tmp_path / "stage"), "--games", "64"]) == 0


def test_bad_input_ends_with_2(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "error:" in capsys.readouterr().err
    assert main([str(tmp_path), "--games", "0"]) == 2
    assert "--games 0 is not allowed" in capsys.readouterr().err


def test_players_keep_rows_apart():
    own = network()
    choose = match.team_policy(own, 0, deterministic=True)
    obs = np.random.default_rng(0).integers(0, 2, (3, 2, *own.schemas.observation.shape), dtype=np.uint8)
    actions = choose(obs, np.ones((3, 2), np.bool_))
    assert actions.shape == (3, 2)
    one = own.act(torch.as_tensor(obs[2, 1:2]), torch.Generator(), True).item()
    assert actions[2, 1] == one
