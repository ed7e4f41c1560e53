"""Numbers by hand; numpy and scipy as the independent implementations; invariances the sources promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from graft.errors import GraftError
from graft.transfer.diagnostics import (
    centred_gram,
    conflict,
    dormant_share,
    effective_rank,
    gram_alignment,
    relative_distance,
    share,
)

SHAPES = [(40, 7, 5), (12, 30, 50), (20, 3, 60), (20, 60, 3), (9, 9, 9), (2, 1, 4)]
"""(N, D1, D2): narrower than the states, wider, mixed, on the border, and the smallest."""


def features(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(1.5, 2.0, (rows, columns))


def rotation(size, seed=0):
    return np.linalg.qr(features(size, size, seed))[0]


def cka_by_grams(x, y):
    """Kornblith 2019, eq. 3, with the centring matrix H written out."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, l_):
        return np.trace(k @ h @ l_ @ h) / (n - 1) ** 2

    k, l_ = x @ x.T, y @ y.T
    return hsic(k, l_) / math.sqrt(hsic(k, k) * hsic(l_, l_))


def cka(x, y):
    return gram_alignment(centred_gram(x), centred_gram(y))


def tensors(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


@pytest.mark.parametrize(("n", "d1", "d2"), SHAPES)
def test_cka_is_the_ratio_of_hsics(n, d1, d2):
    x, y = features(n, d1, 1), features(n, d2, 2)
    expected = cka_by_grams(x, y)
    assert cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, abs=1e-6)


def test_cka_by_hand():
    x = torch.tensor([[0.0], [1.0], [2.0]])  # centred -1, 0, 1
    y = torch.tensor([[1.0], [0.0], [0.0]])  # centred 2/3, -1/3, -1/3: product -1, norms 2 and 2/3
    assert cka(x, y) == pytest.approx(1 / (2 * 2 / 3))


@pytest.mark.parametrize(("n", "d1", "d2"), SHAPES)
def test_cka_does_not_see_rotation_scale_and_shift(n, d1, d2):
    x, y = features(n, d1, 1), features(n, d2, 2)
    turned = 3.7 * x @ rotation(d1) - 5.0
    assert cka(torch.tensor(turned), torch.tensor(y)) == pytest.approx(cka_by_grams(x, y), abs=1e-9)
    assert cka(torch.tensor(x), torch.tensor(turned)) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("columns", [6, 50])
def test_cka_of_equals_is_one_and_less_for_others(columns):
    x, y = torch.tensor(features(20, columns, 1)), torch.tensor(features(20, columns, 2))
    assert cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert cka(x, x) <= 1
    assert cka(x, y) == pytest.approx(cka(y, x))
    assert 0 < cka(x, y) < 1
    scaled = x * torch.linspace(1, 9, columns)  # not the same scale for all: that it does see
    assert cka(x, scaled) < 0.99


@pytest.mark.parametrize("columns", [6, 50])
def test_cka_with_a_constant_is_zero(columns):
    constant = torch.full((20, columns), 0.1)
    assert cka(torch.tensor(features(20, columns)), constant) == 0
    assert cka(constant, constant) == 0
    ulp = float(np.spacing(np.float32(0.1)))
    rounded = constant + ulp * torch.randint(-2, 3, (20, columns), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(rounded, constant)
    assert cka(rounded, rounded) == 0


def test_cka_with_nan_is_nan():
    x = torch.tensor(features(20, 6))
    assert math.isnan(cka(x, x * math.nan))


@pytest.mark.parametrize(("rows", "columns"), [(30, 8), (8, 30), (1, 5)])
def test_effective_rank_is_scipys_entropy_of_numpys_singular_values(rows, columns):
    x = features(rows, columns)
    values = np.linalg.svd(x, compute_uv=False)
    expected = math.exp(scipy.stats.entropy(values))
    assert effective_rank(torch.tensor(x)) == pytest.approx(expected, abs=1e-6)
    assert effective_rank(torch.tensor(7.0 * x)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("diagonal", "expected"),
    [
        ([2.0, 2.0, 2.0, 2.0], 4.0),
        ([5.0, 0.0, 0.0], 1.0),
        ([3.0, 0.0, 3.0], 2.0),
        ([2.0, 1.0, 1.0], 2**1.5),  # entropy of (1/2, 1/4, 1/4) = 1.5 ln 2
        ([-2.0, 1.0, 1.0], 2**1.5),  # singular values are sizes
        ([0.0, 0.0], 0.0),
    ],
)
def test_effective_rank_of_diagonal_matrices(diagonal, expected):
    assert effective_rank(torch.diag(torch.tensor(diagonal))) == pytest.approx(expected, abs=1e-9)


def test_dormant_share_by_hand():
    # Mean sizes 2, 0, 0.1, 1.9: their mean is 1, so the second and, at tau = 0.1, the third are dormant.
    units = torch.tensor([[2.0, 0.0, 0.0, -1.9], [-2.0, 0.0, 0.2, 1.9]], dtype=torch.float64)
    assert dormant_share(units, tau=0.1 + 1e-9) == 0.5
    assert dormant_share(units, tau=0.1 - 1e-9) == 0.25
    assert dormant_share(units, tau=0.0) == 0.25
    assert dormant_share(units, tau=1.9 + 1e-9) == 0.75


def test_a_channel_is_one_unit():
    # One of 18 cells answers, to one of 2 states: 9 / 18 = 0.5; the other channel is 1 everywhere; their mean is 0.75.
    maps = torch.zeros(2, 2, 3, 3)
    maps[1, 0, 2, 1], maps[:, 1] = 9.0, 1.0
    assert dormant_share(maps) == 0
    assert dormant_share(maps, tau=0.65) == 0
    assert dormant_share(maps, tau=0.68) == 0.5


def test_a_layer_of_zeros_is_dormant_and_a_constant_one_is_not():
    assert dormant_share(torch.zeros(3, 5)) == 1
    assert dormant_share(torch.ones(3, 5)) == 0


def test_relative_distance_by_hand():
    before = tensors(weight=[[3.0, 0.0]], bias=[4.0])
    assert relative_distance(tensors(weight=[[3.0, 1.0]], bias=[2.0]), before) == pytest.approx(math.sqrt(5) / 5)
    assert relative_distance(before, before) == 0
    assert relative_distance(tensors(b=[0.0]), tensors(b=[0.0])) == 0
    assert relative_distance(tensors(b=[1.0]), tensors(b=[0.0])) == math.inf
    assert relative_distance({}, {}) == 0


@pytest.mark.parametrize("now", [tensors(b=[1.0, 2.0]), tensors(a=[1.0]), tensors(a=[1.0], b=[1.0]), {}])
def test_relative_distance_needs_the_same_tensors(now):
    with pytest.raises(GraftError, match="same tensors"):
        relative_distance(now, tensors(b=[1.0]))


@pytest.mark.parametrize(
    ("added", "cosine", "part"),
    [
        (tensors(a=[3.0], b=[[4.0]]), 1.0, 0.5),
        (tensors(a=[-9.0], b=[[-12.0]]), -1.0, 0.75),
        (tensors(a=[4.0], b=[[-3.0]]), 0.0, 0.5),
        (tensors(a=[5.0], b=[[0.0]]), 0.6, 0.5),  # 15 / 25
        (tensors(b=[[-5.0]]), -0.8, 0.5),  # an absent tensor is zeros
        (tensors(c=[10.0]), 0.0, 2 / 3),  # of a parameter that the task does not train
        (tensors(a=[0.0], b=[[0.0]]), 0.0, 0.0),
        ({}, 0.0, 0.0),
    ],
)
def test_conflict_and_share_by_hand(added, cosine, part):
    task = tensors(a=[3.0], b=[[4.0]])
    assert conflict(task, added) == pytest.approx(cosine)
    assert conflict(added, task) == pytest.approx(cosine)
    assert share(task, added) == pytest.approx(part)


def test_conflict_and_share_where_the_task_vanishes():
    nothing, added = tensors(a=[0.0]), tensors(a=[2.0])
    assert (conflict(nothing, added), share(nothing, added)) == (0, 1)
    assert (conflict({}, {}), share({}, {})) == (0, 0)


def test_conflict_of_large_gradients_does_not_overflow():
    huge = tensors(a=[3e30, 4e30])
    assert conflict(huge, tensors(a=[3e30, 4e30])) == pytest.approx(1)
    assert share(huge, huge) == pytest.approx(0.5)
    assert math.isnan(conflict(huge, tensors(a=[math.nan, 0.0])))
