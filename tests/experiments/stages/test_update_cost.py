"""The line about updates: their number is what the library counts, and their time is what they take."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from support.off_policy import Small
from support.tiny_tasks import REACH, TASK, small_config

from graft import envs
from graft.agents.sb3 import ALGORITHMS
from graft.agents.sb3.update_time import seconds_per_update
from graft.agents.training.algorithm import ReplayOptions
from graft.agents.training.backend import Evaluation
from graft.experiments.plan.stage import Stage
from graft.experiments.stages import update_cost

pytestmark = pytest.mark.usefixtures("tiny_tasks")

SAC, DQN = Small("sac", REACH, {}), Small("dqn", TASK, {"target_update": 8})


@pytest.mark.parametrize(
    ("small", "options"),
    [
        (SAC, {"learning_starts": 50, "gradient_steps": 2}),
        (DQN, {"learning_starts": 21, "gradient_steps": -1, "train_freq": 3}),
        (DQN, {"learning_starts": 0, "gradient_steps": 1}),
    ],
    ids=["two", "as many as steps", "from the first"],
)
def test_as_many_updates_as_the_library_makes(small, options):
    learner = small.learner(small.network(), **options)
    learner.learn(65)
    assert small.algorithm(**options).updates(65) == learner._n_updates > 0


def stage(small, steps, **options):
    algorithm = small.algorithm(**options)
    kind = small_config("vector")
    return Stage("pretrain", small.task, 0, steps, kind, small.name, algorithm, Evaluation())


def test_the_line_adds_up_all_trainings(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("graft.agents.sb3.update_time.seconds_per_update", lambda *_: 0.125)
    options = {"num_envs": 4, "batch": 16, "learning_starts": 20, "gradient_steps": 2}
    text = update_cost.update_cost([stage(SAC, 420, **options), stage(SAC, 1_220, **options)])
    # (105 - 5) * 2 and (305 - 5) * 2 updates, an eighth of a second each.
    assert text == (
        "sac: updates of 16 states, 0.5 per env step after the first 20 of each training, 800 in all, about 125.0 ms "
        "of processor time each (measured just now): 100 s, the environments' not counted. gradient_steps and "
        "train_freq say how many, batch and network what one costs."
    )


def test_the_work_of_a_gpu_is_not_measured(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    text = update_cost.update_cost([stage(DQN, 420)])
    assert text is not None
    assert "ms" not in text
    assert text.startswith("dqn: updates of 16 states, 0.5 per env step")


def test_an_algorithm_without_a_buffer_has_no_line():
    ppo = Stage("pretrain", TASK, 0, 100, small_config("vector"), "ppo", ALGORITHMS["ppo"](), Evaluation())
    assert update_cost.update_cost([ppo]) is None
    assert update_cost.update_cost([replace(stage(SAC, 100), kind="consolidate")]) is None


@pytest.mark.parametrize("small", [SAC, DQN], ids=["sac", "dqn"])
def test_what_is_measured_is_what_a_learner_takes(small):
    """Within a factor of 3, of a larger minibatch, whose time is not all overhead."""
    schemas, algorithm = envs.schemas(small.task), small.algorithm(batch=512, buffer=600)
    assert isinstance(algorithm, ReplayOptions)
    measured = seconds_per_update(algorithm, schemas, small_config("vector"))
    learner = small.learner(small.network(), batch=512, buffer=600, learning_starts=40)
    learner.learn(40)
    start = time.process_time()
    learner.train(5, 512)
    taken = (time.process_time() - start) / 5
    assert taken / 3 < measured < taken * 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3, "12 s"), (150, "2.5 min"), (3_000, "50 min"), (9_000, "2.5 h"), (90_000, "25 h")]
)
def test_durations_have_the_unit_that_suits(seconds, text):
    assert update_cost._duration(seconds) == text
