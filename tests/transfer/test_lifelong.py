"""The published example of l2metrics by its figures, and small cases by hand.

Source: github.com/lifelong-learning-systems/l2metrics: the logs ``examples/multi_task``, ``examples/ste_task1`` to 3,
and their tables, ``examples/multi_task_metrics.tsv`` at commit 65660a2e (terminal scores, maintenance, transfer as
contrast) and ``examples/multi_task/multi_task_metrics.tsv`` at 10c00ce2 (relative performance, sample efficiency).
"""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from graft.transfer import lifelong
from graft.transfer.lifelong import Block

TASKS = ("task1", "task2", "task3")

OTHERS = {
    "task1": {"task2": 20, "task3": 10},
    "task2": {"task1": -20, "task3": 30},
    "task3": {"task1": -20, "task2": -30},
}
"""By how many experiences training on a task puts another one forward, or back."""


def score(experiences):
    """The example's learner: from 2.5 to 100 along a hyperbolic tangent."""
    return 2.5 + 97.5 * np.tanh(np.asarray(experiences) / 80)


@pytest.fixture(scope="module")
def example():
    """The logs of the example: tests of all tasks, then each task for 100 experiences, three times over."""
    known = dict.fromkeys(TASKS, 0)
    blocks = [Block("test", task, score([0] * 20)) for task in TASKS]
    for task in TASKS * 3:
        blocks.append(Block("train", task, score(np.arange(known[task], known[task] + 100))))
        known[task] += 100
        for other, experiences in OTHERS[task].items():
            known[other] += experiences
        blocks += [Block("test", tested, score([known[tested]] * 20)) for tested in TASKS]
    return blocks


@pytest.fixture(scope="module")
def experts():
    return {task: [score(np.arange(210))] for task in TASKS}


def test_terminal_scores_of_the_example(example):
    published = {0: 2.5, 4: 85.20765489585752, 5: 26.379569584361597, 6: 14.624417672730598, 8: 76.75543020568692}
    published |= {10: 47.556422832850906, 12: 64.42702285776014, 17: 88.28310321606867, 18: 95.5194128675449}
    published |= {24: 90.75195473037478, 28: 99.20632314540029, 33: 99.89220816579991, 38: 99.99463054023268}
    published |= {3: 83.1821805004812, 7: 89.43951318553678, 23: 99.7956615328922, 35: 99.99382320351987}  # training
    for block, expected in published.items():
        assert example[block].terminal == pytest.approx(expected)
    # At the other commit, scores were smoothed first.
    smoothed = {3: 82.27915656589508, 7: 88.84798075396453, 15: 95.74135049226534, 35: 99.99345253109281}
    for block, expected in smoothed.items():
        assert Block("train", "", lifelong.smoothed(example[block].scores)).terminal == pytest.approx(expected)


def test_maintenance_of_the_example(example):
    found = lifelong.performance_maintenance(example)
    published = {"task1": -6.5070618571988845, "task2": -2.669185058041177, "task3": 1.2400650025397155}
    assert found == pytest.approx(published)
    assert statistics.median(found.values()) == pytest.approx(-2.669185058041177)


def test_transfer_of_the_example(example):
    forward, backward = lifelong.transfers(example)
    assert {pair: [c.contrast for c in changes] for pair, changes in forward.items()} == {
        ("task1", "task2"): [pytest.approx(0.8268672257945454)],
        ("task1", "task3"): [pytest.approx(0.7080192684179772)],
        ("task2", "task3"): [pytest.approx(0.5296165972083355)],
    }
    assert {pair: [c.contrast for c in changes] for pair, changes in backward.items()} == {
        ("task1", "task2"): pytest.approx([0.04052242672600994, 0.004260175460737419]),
        ("task1", "task3"): pytest.approx([0.0065082977008664895, 0.00019665703356083958]),
        ("task2", "task1"): pytest.approx([-0.05218611811988754, -0.011576743120205209, -0.0025842644266291584]),
        ("task2", "task3"): pytest.approx([0.012091064679683596, 0.0003653344994189731]),
        ("task3", "task1"): pytest.approx([-0.08732251834713786, -0.019089036414311835, -0.004260175460737051]),
        ("task3", "task2"): pytest.approx([-0.05428186007970684, -0.005712921479641411, -0.0006023247802811597]),
    }
    # Over a lifetime: the first change of each pair; the example's tool took medians.
    assert statistics.median(c[0].contrast for c in forward.values()) == pytest.approx(0.7080192684179772)
    assert statistics.median(c[0].contrast for c in backward.values()) == pytest.approx(-0.022838910209510524)


def test_comparisons_with_experts_of_the_example(example, experts):
    relative = lifelong.relative_performance(example, experts)
    assert relative == pytest.approx(
        {"task1": 0.9392171506970474, "task2": 1.1028740497958955, "task3": 1.1988080594858352}
    )
    efficiency = lifelong.sample_efficiency(example, experts)
    assert efficiency == pytest.approx(
        {"task1": 0.7001368780185359, "task2": 0.7075395823035062, "task3": 0.7086476900734398}
    )


def test_one_number_each(example, experts):
    found = lifelong.lifelong_metrics(example, experts)
    assert found["performance_maintenance"] == pytest.approx((-6.50706186 - 2.66918506 + 1.240065) / 3)
    assert found["forward_transfer_contrast"] == pytest.approx((0.82686723 + 0.70801927 + 0.5296166) / 3)
    ratios = [26.3795696 / 2.5, 14.6244177 / 2.5, 47.5564228 / 14.6244177]
    assert found["forward_transfer_ratio"] == pytest.approx(sum(ratios) / 3)
    first = [(88.2831, 81.4069), (95.5194, 94.2841), (76.7554, 85.2077), (97.8575, 95.5194), (64.4270, 76.7554)]
    ratios = [after / before for after, before in [*first, (81.4069, 90.7520)]]
    assert found["backward_transfer_ratio"] == pytest.approx(sum(ratios) / 6, rel=1e-4)
    assert found["relative_performance"] == pytest.approx((0.93921715 + 1.10287405 + 1.19880806) / 3)
    assert found["sample_efficiency"] == pytest.approx((0.70013688 + 0.70753958 + 0.70864769) / 3)
    assert set(lifelong.lifelong_metrics([], {}).values()) == {None}


@pytest.mark.parametrize("count", [3, 14, 15, 20, 37, 700])
def test_the_moving_average_is_a_plain_loop(count):
    values = np.random.default_rng(count).normal(size=count)
    window = min(int(0.2 * count), 100)
    if window < 3:
        assert lifelong.smoothed(values).tolist() == values.tolist()
        return
    first = -((window + 1) // 2)
    mirrored = np.pad(values, window, mode="reflect")
    expected = [mirrored[window + i + first :][:window].mean() for i in range(count)]
    np.testing.assert_allclose(lifelong.smoothed(values), expected)


def test_what_is_not_measured_is_left_out():
    train, test = Block("train", "a", [0.0, 0.5, 1.0]), Block("test", "a", [0.5])
    assert lifelong.performance_maintenance([test, train, test]) == {}  # no test after the reference
    assert lifelong.transfers([test, train, test]) == ({}, {})  # no other task
    assert lifelong.relative_performance([train], {"b": [[1.0]]}) == {}
    assert lifelong.sample_efficiency([train], {"a": [[1.0, 0.0]]}) == {}  # an expert that starts at its best
    forward, _ = lifelong.transfers([Block("test", "b", [0.0]), train, Block("test", "b", [0.0])])
    assert forward["a", "b"][0] == (0.0, 0.0)
    assert (forward["a", "b"][0].ratio, forward["a", "b"][0].contrast) == (None, None)


def test_a_task_that_is_not_learned_has_no_efficiency():
    expert = {"a": [[0.0, 0.5, 1.0]]}
    assert lifelong.sample_efficiency([Block("train", "a", [0.0, 0.1, 0.15])], expert) == {"a": 0.0}  # below a fifth
    assert lifelong.sample_efficiency([Block("train", "a", [0.5, 0.6, 0.1])], expert) == {"a": 0.0}  # falls
    # Saturates at 0.8 after 1 score, the expert at 1 after 2: 0.8 * 2.
    assert lifelong.sample_efficiency([Block("train", "a", [0.0, 0.8, 0.7])], expert) == {"a": pytest.approx(1.6)}
