"""The claims of the README, trained in full: hours on two cores. Stages that `runs/` holds are not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.training.backend import TrainJob
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments import learnability, run
from graft.experiments.playback.match import match

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
RUNS = Path(__file__).parents[2] / "runs"
SMALL = {"channels": [16, 32], "strides": [2, 1], "features": 64}


def results_of(name):
    """Rows of the experiment ``name``, run as `make test-slow`'s user would run it."""
    assert run.main([name, "--out", str(RUNS / name)]) == 0
    rows = json.loads((RUNS / name / "results.json").read_text())["rows"]
    assert all(row["seeds"] == 5 for row in rows)
    return rows


def rows_of(name):
    """(target, method) -> row of a transfer experiment."""
    return {(row["target"], row["method"]): row for row in results_of(name)}


def test_changed_mechanics():
    rows = rows_of("mechanics_gather")
    for target in ("Gather(slip=0.3)", "Gather(invert=True)"):
        assert rows[target, "frozen"]["transfer_ratio"]["low"] > 2
        assert rows[target, "finetune"]["verdict"] == "positive"
        assert rows[target, "random_frozen"]["verdict"] != "positive"
    assert rows["Hunt", "frozen"]["verdict"] == "positive"
    mirrored = rows["Gather(invert=True)", "finetune(heads=by_name)"]
    assert mirrored["jumpstart"] < 0
    assert mirrored["verdict"] != "positive"


def test_a_larger_room():
    rows = rows_of("minigrid_8x8")
    target = "envpool/MiniGrid-DoorKey-8x8"
    carried = rows[target, "finetune(heads=by_name)"]
    assert carried["verdict"] == "positive"
    assert carried["steps_to_threshold"] <= 100_000
    assert carried["final"] > 0.9
    assert rows[target, "random_frozen"]["verdict"] != "positive"


def test_four_games_one_after_the_other():
    rows = {row["method"]: row for row in results_of("sequence4")}
    plain = rows["finetune"]
    assert plain["learned"]["low"] > 0.4
    assert plain["forgetting"]["low"] > 0.2
    for name in ("packnet", "progressive"):
        assert rows[name]["forgetting"] == {"iqm": 0.0, "low": 0.0, "high": 0.0}
        assert all(m[3][j] == m[j][j] for m in rows[name]["matrices"] for j in range(4))
    for name in ("ewc", "online_ewc", "mas", "replay"):
        assert rows[name]["forgetting"]["high"] < plain["forgetting"]["iqm"] / 2
        assert rows[name]["average_performance"]["low"] > plain["average_performance"]["high"]


def test_every_game_is_learnable():
    assert learnability.main(["--out", str(RUNS), "--jobs", "2"]) == 0


@pytest.mark.parametrize(
    ("name", "teams"), [("Graft/Pursuit-v0", ("hunters", "prey")), ("Graft/TeamGather-v0", ("reds", "blues"))]
)
def test_squads_that_share_a_network_beat_random_ones(name, teams):
    task = Task(name, {"team": "all"})
    algorithm, config = ALGORITHMS["ppo"](), NetworkConfig(options=SMALL)
    network = PolicyNetwork(schemas(task), config, 0)
    train(TrainJob(network, task, algorithm, 1_000_000, 0, lambda steps, values: None))
    for team in teams:
        outcome = match(network, Task(name, {"team": team}), "random", 1000, seed=1)
        assert outcome.interval()[0] > 0.8, team
