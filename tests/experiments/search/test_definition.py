"""What a search's file may say: spaces, schedulers and metrics, and what is refused."""

from __future__ import annotations

import pytest
from support.search_fixtures import RATE, STRENGTH, write_search

from graft.errors import GraftError
from graft.experiments import tune
from graft.experiments.search.definition import load_search, parse_dimension


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"log": [100, 1]}, "wrong order"),
        ({"log": [0, 1]}, "no logarithm"),
        ({"uniform": [1, float("inf")]}, "finite"),
        ({"integer": [1, 2.5]}, "whole"),
        ({"uniform": [1]}, "two numbers"),
        ({"uniform": ["a", "b"]}, "two numbers"),
        ({"logarithmic": [1, 2]}, "Unknown kind of range of 'k' 'logarithmic'; allowed: integer"),
        ({"log": [1, 2], "uniform": [1, 2]}, "one range"),
        (3, "list of choices"),
        ([1], "two different"),
        ([1, 1], "two different"),
        ([1, {}], "two different"),
    ],
)
def test_dimensions_that_make_no_sense_are_refused(given, message):
    with pytest.raises(GraftError, match=message):
        parse_dimension("k", given)


def test_fractions_are_rounded_within_their_range_and_the_rest_is_kept(tmp_path):
    space = {STRENGTH: {"uniform": [0.123456, 2]}, RATE: [0.00123456, 0.01]}
    search = load_search(str(write_search(tmp_path, space=space)))
    assert search.rounded({STRENGTH: 1.234567, RATE: 0.00123456}) == {STRENGTH: 1.235, RATE: 0.00123456}
    assert search.rounded({STRENGTH: 0.123457}) == {STRENGTH: 0.1235}
    assert search.rounded({STRENGTH: 0.1234561})[STRENGTH] >= 0.123456


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spcae": {}}, "Did you mean 'space'"),
        ({"space": {}}, "space"),
        ({"trials": 1}, "trials"),
        ({"experiment": "quikstart"}, "Did you mean 'quickstart'"),
        ({"scheduler": "ahsa"}, "Did you mean 'asha'"),
        ({"scheduler": {"name": "asha", "reductoin": 2}}, "Did you mean 'reduction'"),
        ({"scheduler": {"name": "asha", "reduction": 1}}, "reduction"),
        ({"scheduler": "pbt"}, "use scheduler: asha"),
        ({"scheduler": {"name": "pbt", "every": 100}, "metric": "final"}, "use scheduler: asha"),
        ({"metric": "balance"}, "asha can't stop by it"),
        ({"metric": "acu"}, "metric"),
        ({"space": {"algorithm.learning_rat": [1e-3, 1e-2]}}, "Did you mean 'learning_rate'"),
        ({"space": {"methods.0.ewc.strenght": [1, 10]}}, "Did you mean 'strength'"),
        ({"space": {"methods.3.ewc.strength": [1, 10]}}, "a method that is not there"),
        ({"space": {STRENGTH: [1, -1]}}, "strength=-1"),
        ({"space": {STRENGTH: {"uniform": [-1, 1]}}}, "strength=-1"),
        ({"space": {"targets.0.kwargs.slip": [0.1, 0.2]}}, "a search may vary"),
        ({"experiment": "sequence4"}, "sequence of tasks"),
        ({"overrides": {"seeds": 0}}, "seeds"),
    ],
)
def test_bad_searches_end_before_anything_is_written(changes, message, tmp_path, capsys):
    path = write_search(tmp_path / "given", **changes)
    assert tune.main([str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    with pytest.raises(GraftError, match=message):
        raise GraftError(error)
    assert not (tmp_path / "out").exists()


def test_the_command_line_refuses_pbt_by_what_to_use_instead(capsys):
    assert tune.main(["tune_ewc", "--scheduler", "pbt"]) == 2
    error = capsys.readouterr().err
    assert "pbt (population-based training) is not offered any more; use scheduler: asha" in error
    assert error.count("\n") == 1


def test_an_experiment_is_no_search():
    with pytest.raises(GraftError, match="'experiment: quickstart' and a 'space:'"):
        load_search("quickstart")


def test_the_options_of_the_files_scheduler_stay_where_it_is_named_again(tmp_path):
    path = str(write_search(tmp_path, scheduler={"name": "asha", "reduction": 5}))
    assert load_search(path, scheduler="asha").scheduler.reduction == 5
    assert load_search(path, scheduler="none").identity["scheduler"] == {"name": "none"}
    assert load_search(path, trials=9).identity == load_search(path).identity, "more trials are the same search"
