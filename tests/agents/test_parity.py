"""How far actions are apart."""

from __future__ import annotations

import numpy as np
from support.tiny_tasks import box, discrete, multi

from graft.agents.parity import gaps


def test_choices_differ_by_their_scores_whatever_other_outputs_are():
    scores = np.array([[1.0, 0.99, -1e6], [4.0, 4.0, 8.0]])
    assert gaps(np.array([1, 2]), np.array([0, 2]), scores, discrete("a", "b", "c"))[:, 0].tolist() == [1.0 - 0.99, 0]
    both = gaps(
        np.array([[0, 1], [1, 0]]), np.array([[0, 0], [0, 0]]), np.array([[2, 2, 9, 6], [8, 6, 1, 1]]), multi(x=2, y=2)
    )
    np.testing.assert_allclose(both, [[0, 3 / 9], [2 / 8, 0]])


def test_numbers_differ_relative_to_those_above_one():
    wanted = np.array([[0.1, 100.0], [np.inf, 0.0]])
    found = gaps(np.array([[0.2, 90.0], [np.inf, 0.0]]), wanted, wanted, box(["a", "b"]))
    np.testing.assert_allclose(found, [[0.1, 0.1], [np.nan, 0.0]])
