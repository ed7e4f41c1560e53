"""A search's trials in Optuna's journal: what is sampled, what a kill leaves, and who is stopped."""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from optuna.trial import TrialState
from support.search_fixtures import RATE, SPACE, STRENGTH, Following, write_search

from graft.errors import GraftError
from graft.experiments.search.definition import load_search
from graft.experiments.search.trials import FILE, RANDOM_TRIALS, Trials, trial_of


def values_of(trials, count):
    return [trials.next().user_attrs["values"] for _ in range(count)]


def test_the_first_trials_depend_on_the_seed_alone(tmp_path):
    path = str(write_search(tmp_path, trials=8))
    search = load_search(path)
    memory = values_of(Trials(search, None, 1024), 1 + RANDOM_TRIALS)
    assert memory[0] == {}, "the experiment as it is comes first"
    assert all(set(values) == set(SPACE) for values in memory[1:])
    assert len({str(values) for values in memory}) == len(memory)
    (tmp_path / "out").mkdir()
    found = []
    for index in range(1 + RANDOM_TRIALS):  # opened anew for each, as after kills
        trials = Trials(search, tmp_path / "out", 1024)
        found += values_of(trials, 1)
        trials.study.tell(index, float(index))
    assert found == memory
    assert values_of(Trials(load_search(path, seed=1), None, 1024), 2)[1] != memory[1]


def test_later_trials_are_sampled_by_what_earlier_ones_found(tmp_path):
    search = load_search(str(write_search(tmp_path, space={STRENGTH: {"log": [0.1, 1000]}}, trials=30)))
    trials, found = Trials(search, None, 1024), []
    while (trial := trials.next()) is not None:
        distance = abs(math.log10(trial.user_attrs["values"].get(STRENGTH, 0.1) / 300))
        found.append(distance)
        trials.study.tell(trial.number, -distance)
    near = [sum(distance < 0.5 for distance in part) for part in (found[:6], found[15:])]
    assert near[0] <= 3, "a quarter of the range, at random"
    assert near[1] >= 8, "most of fifteen"


def test_a_small_space_is_drawn_without_repeats_and_has_fewer_trials(tmp_path):
    path = write_search(tmp_path, space={RATE: [1e-3, 1e-2], STRENGTH: [1, 10, 100]}, trials=9)
    trials = Trials(load_search(str(path)), None, 1024)
    assert trials.count == 7
    found = values_of(trials, 7)
    assert len({str(values) for values in found}) == 7
    assert trials.next() is None


def test_an_interrupted_trial_goes_on_and_a_failed_one_is_begun_again(tmp_path):
    search = load_search(str(write_search(tmp_path, trials=3)))
    trials = Trials(search, tmp_path, 1024)
    first, second = trials.next(), trials.next()
    second.report(0.5, 256)
    trials.study.tell(first.number, state=TrialState.FAIL)
    trials.study.ask()  # a kill came before its values were set
    again = Trials(search, tmp_path, 1024)
    failed, went_on, new = again.next(), again.next(), again.next()
    assert again.next() is None
    assert (went_on.number, went_on.params) == (second.number, second.params)
    assert again.all()[1].intermediate_values == {256: 0.5}
    assert [t.user_attrs["index"] for t in (failed, went_on, new)] == [0, 1, 2]
    assert failed.number not in (first.number, second.number)
    assert failed.user_attrs["values"] == first.user_attrs["values"]


def test_a_failed_trial_is_begun_again_with_its_values(tmp_path):
    search = load_search(str(write_search(tmp_path, trials=2)))
    trials = Trials(search, tmp_path, 1024)
    values = values_of(trials, 2)
    trials.study.tell(0, 0.1)
    trials.study.tell(1, state=TrialState.FAIL)
    assert Trials(search, tmp_path, 1024).next().user_attrs == {"index": 1, "values": values[1]}


def test_a_failed_trial_of_a_small_space_is_begun_again_and_none_is_drawn_twice(tmp_path):
    search = load_search(str(write_search(tmp_path, space={RATE: [1e-3, 1e-2], STRENGTH: [1, 10]}, trials=5)))
    trials = Trials(search, tmp_path, 1024)
    values = values_of(trials, 2)
    trials.study.tell(0, 0.1)
    trials.study.tell(1, state=TrialState.FAIL)
    again = values_of(Trials(search, tmp_path, 1024), 4)
    assert again[0] == values[1]
    assert len({str(found) for found in again}) == 4


def test_a_journal_survives_half_a_line_and_refuses_another_search(tmp_path):
    path = str(write_search(tmp_path))
    values = values_of(Trials(load_search(path), tmp_path, 1024), 2)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"op_code":4,"worker')
    again = Trials(load_search(path, trials=5), tmp_path, 1024)
    assert values_of(again, 3)[:2] == values
    with pytest.raises(GraftError, match="another search, which differs in seed"):
        Trials(load_search(path, seed=1), tmp_path, 1024)
    (tmp_path / FILE).write_text("no\n{}\n")
    with pytest.raises(GraftError, match="was altered"):
        Trials(load_search(path), tmp_path, 1024)


def strength(stage):
    """A score that is the better the larger."""
    return stage.method.strength


def test_asha_stops_a_worse_trial_at_the_rung_that_it_reaches(tmp_path):
    path = write_search(tmp_path, scheduler={"name": "asha", "reduction": 2, "grace": 256}, trials=7)
    found = Following(path, tmp_path / "out", strength)
    found.run()
    trials = found.trials.all()
    assert set(found.states().values()) == {"COMPLETE", "PRUNED"}
    assert trials[0].state == TrialState.COMPLETE, "the first had nobody to be compared with"
    best = float("-inf")
    for index, trial in sorted(trials.items()):
        score = trial.intermediate_values[256]
        if score > best:
            best = score
            assert trial.state == TrialState.COMPLETE, "the best so far goes on, whatever the others"
        if trial.state == TrialState.PRUNED:
            assert score < best, index
            assert max(trial.intermediate_values) in (256, 512)
        else:
            assert max(trial.intermediate_values) == 1024
    stopped = {stage.id for stage in found.store.trained if not found.store.done(stage.id)}
    assert len(stopped) == sum(trial.state == TrialState.PRUNED for trial in trials.values())


def test_no_trial_is_judged_before_the_first_rung_or_by_its_last_report(tmp_path):
    path = write_search(tmp_path, scheduler={"name": "asha", "reduction": 2, "grace": 1024}, trials=6)
    found = Following(path, tmp_path / "out", strength)
    found.run()
    assert set(found.states().values()) == {"COMPLETE"}


def test_scores_of_several_seeds_are_one_report_by_the_steps_of_all(tmp_path):
    path = write_search(tmp_path, {"seeds": 2}, scheduler="none", trials=2)
    found = Following(path, tmp_path / "out", lambda stage: float(stage.seed))
    found.run()
    scale = found.queue._trials.search.config().targets[0].scale
    low, high = (scale.normalise(seed) for seed in (0.0, 1.0))
    reports = found.trials.all()[1].intermediate_values
    assert sorted(reports) == [256, 512, 768, 1024, 1280, 1536, 1792, 2048]
    assert reports[1024] == pytest.approx(low)
    assert reports[1280] == pytest.approx((4 * low + high) / 5)
    assert reports[2048] == pytest.approx((low + high) / 2)


def _report(out, path, number):
    from pathlib import Path

    trials = Trials(load_search(path), Path(out), 1024)
    trial = trial_of(trials.study, number)
    for step in range(1, 41):
        trial.report(number + step / 100, step)
    return number


@pytest.mark.slow
def test_two_processes_write_one_journal(tmp_path):
    path = str(write_search(tmp_path))
    trials = Trials(load_search(path), tmp_path, 1024)
    values_of(trials, 2)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        done = [pool.submit(_report, str(tmp_path), path, number) for number in (0, 1)]
        assert [one.result() for one in done] == [0, 1]
    for number, trial in Trials(load_search(path), tmp_path, 1024).all().items():
        assert trial.intermediate_values == {step: number + step / 100 for step in range(1, 41)}
