"""Merges: cases by hand, plain loops over the papers' formulas, statistics of the raw numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_tasks import MATCH, TASK, discrete, small_network, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.normaliser import Normaliser, normalisers
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.merging import MERGES, average, merge, pooled, task_arithmetic, ties

RENAMED = Schemas(vector(["d", "b", "c", "a"]), discrete("east", "south", "north", "west"))
"""The names of MATCH in another order."""


def by_loop(vectors, method, scale=1.0, keep=1.0):
    """The formulas, weight by weight."""
    count, size = len(vectors), len(vectors[0])
    if method == "ties":
        kept = max(1, round(keep * size))
        cut = [sorted((abs(v) for v in vector), reverse=True)[kept - 1] for vector in vectors]
        vectors = [[v if abs(v) >= c else 0.0 for v in vector] for vector, c in zip(vectors, cut, strict=True)]
    merged = []
    for p in range(size):
        column = [vector[p] for vector in vectors]
        if method == "average":
            merged.append(sum(column) / count)
        elif method == "task_arithmetic":
            merged.append(scale * sum(column))
        else:
            total = sum(column)
            agree = [v for v in column if v * total > 0]
            merged.append(scale * sum(agree) / len(agree) if agree else 0.0)
    return merged


def test_a_case_by_hand():
    vectors = torch.tensor([[3.0, -1.0, 0.5, 2.0], [-1.0, -2.0, 0.1, -2.0]], dtype=torch.float64)
    assert average(vectors).tolist() == [1.0, -1.5, 0.3, 0.0]
    assert task_arithmetic(vectors, scale=0.5).tolist() == [1.0, -1.5, 0.3, 0.0]
    # Of all: signs + - + and none, as 2 - 2 is 0. Of the largest half: (3, 2) and (-2, -2).
    assert ties(vectors, keep=1.0).tolist() == [3.0, -1.5, 0.3, 0.0]
    assert ties(vectors, keep=0.5, scale=2.0).tolist() == [6.0, -4.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("method", "options"),
    [("average", {}), ("task_arithmetic", {"scale": 0.3}), ("ties", {"keep": 0.25, "scale": 0.8})],
)
def test_methods_are_the_formulas(method, options):
    vectors = np.random.default_rng(0).normal(size=(3, 57)) * (np.random.default_rng(1).random((3, 57)) < 0.8)
    found = MERGES[method](torch.tensor(vectors), **options)
    np.testing.assert_allclose(found, by_loop(vectors.tolist(), method, **options), atol=1e-12)


def checkpoint(schemas=MATCH, seed=0):
    return Checkpoint.of(small_network(schemas, seed), TASK)


def moved(base, seed, share=1.0):
    """A fine-tune of ``base``: its weights with noise on a share of them."""
    dice = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, t in base.tensors.items():
        noise = torch.randn(t.shape, generator=dice) * (torch.rand(t.shape, generator=dice) < share)
        tensors[name] = t if "running" in name else t + 0.1 * noise
    return replace(base, tensors=tensors)


def test_every_weight_is_merged_and_conflicts_are_counted():
    base = checkpoint()
    agents = {name: moved(base, seed, share=0.5) for seed, name in enumerate(["a", "b"])}
    found = merge(base, agents, "task_arithmetic", scale=0.7)
    for name, t in found.network.state_dict().items():
        if "running" not in name:
            sum_of = sum(agent.tensors[name].double() - base.tensors[name].double() for agent in agents.values())
            torch.testing.assert_close(t, (base.tensors[name] + 0.7 * sum_of).float(), rtol=0, atol=1e-6)
    whole, *layers = found.conflicts
    assert sum(layer.values for layer in layers) == whole.values
    layer = next(layer for layer in layers if layer.layer == "policy.hidden.0")
    opposed, both, dot, squares = 0, 0, 0.0, [0.0, 0.0]
    for name in ("policy.hidden.0.weight", "policy.hidden.0.bias"):
        start = base.tensors[name].flatten().double()
        x, y = (agent.tensors[name].flatten().double() - start for agent in agents.values())
        for u, v in zip(x.tolist(), y.tolist(), strict=True):
            both += u != 0 and v != 0
            opposed += u * v < 0
            dot, squares = dot + u * v, [squares[0] + u * u, squares[1] + v * v]
    assert 0 < opposed < both
    assert layer.disagree == pytest.approx(opposed / both)
    assert layer.cosine == pytest.approx(dot / (squares[0] * squares[1]) ** 0.5)


def test_names_in_another_order_are_the_same_agent():
    base = checkpoint()
    first = moved(base, 1)
    same = moved(base, 1)
    order = [RENAMED.observation.names.index(n) for n in MATCH.observation.names]
    assert order == [3, 1, 2, 0]
    rows = [MATCH.action.names.index(n) for n in RENAMED.action.names]
    tensors = dict(same.tensors)
    for name in ("policy.out.weight", "policy.out.bias"):
        tensors[name] = tensors[name][rows]
    stem = f"encoder.{base.stems[-1].name}"
    tensors[stem] = tensors[stem][:, order]
    renamed = replace(same, schemas=RENAMED, tensors=tensors, stems=small_network(RENAMED).encoder.stems)
    network = merge(base, {"a": first, "b": renamed}, "average").network
    for name, t in network.state_dict().items():
        torch.testing.assert_close(t, first.tensors[name], msg=name)


def statistics_of(numbers):
    return torch.stack(
        [
            torch.full((numbers.shape[1],), len(numbers), dtype=torch.float64),
            numbers.mean(0),
            numbers.var(0, unbiased=False),
        ]
    )


def test_pooled_statistics_are_those_of_all_observations_once():
    dice = torch.Generator().manual_seed(0)
    scales = torch.tensor([[1.0, 50.0, 1e-2]], dtype=torch.float64)
    before, *after = (
        (torch.randn(n, 3, generator=dice, dtype=torch.float64) + shift) * scales
        for n, shift in ((900, 0.0), (40, 2.0), (70, -1.0))
    )
    found = pooled(statistics_of(before), [statistics_of(torch.cat([before, one])) for one in after])
    torch.testing.assert_close(found, statistics_of(torch.cat([before, *after])))


def test_a_feature_that_never_varied_in_the_base_has_the_statistics_of_the_agents():
    base = statistics_of(torch.full((500, 1), 3.0, dtype=torch.float64))
    after = [torch.arange(n, dtype=torch.float64)[:, None] for n in (10, 30)]
    found = pooled(base, [statistics_of(one) for one in after])
    torch.testing.assert_close(found, statistics_of(torch.cat(after)))
    untouched = base * torch.tensor([[0.0], [1.0], [1.0]])  # forgotten at the transfer, and not seen since
    torch.testing.assert_close(pooled(base, [untouched, untouched]), base)


def test_normalisers_of_networks_are_pooled():
    network = small_network(MATCH, normalise=True)
    seen = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) * n for n in (64, 16, 32)]

    def watching(*chunks):
        copy = small_network(MATCH, normalise=True)
        for chunk in chunks:
            copy.train()
            copy(chunk)
            for part in normalisers(copy):
                part.commit_statistics()
        return Checkpoint.of(copy, TASK)

    assert normalisers(network)
    merged = merge(watching(seen[0]), {n: watching(seen[0], x) for n, x in zip("ab", seen[1:], strict=True)}, "ties")
    (part,) = normalisers(merged.network)
    assert isinstance(part, Normaliser)
    whole = torch.cat(seen).double()
    torch.testing.assert_close(part.running_mean, whole.mean(0).float())
    torch.testing.assert_close(part.running_var, whole.var(0, unbiased=False).float())
    assert part.running_count.tolist() == [112.0] * 4


def test_what_differs_is_named():
    base = checkpoint()
    other = checkpoint(Schemas(vector(["a", "b", "c", "e"]), MATCH.action))
    with pytest.raises(GraftError, match=r"the observations of b are .*'e'"):
        merge(base, {"a": base, "b": other}, "average")
    wide = Checkpoint.of(small_network(MATCH, widths=[16, 8]), TASK)
    with pytest.raises(GraftError, match="show and play the same names"):
        merge(base, {"a": base, "b": other}, "average")
    with pytest.raises(GraftError, match="the network of b"):
        merge(base, {"a": base, "b": wide}, "average")
    few = checkpoint(Schemas(MATCH.observation, discrete("north", "south")))
    with pytest.raises(GraftError, match="the actions of the base"):
        merge(few, {"a": base, "b": base}, "average")


def test_numbers_that_are_not_finite_are_a_sentence():
    base, agents = checkpoint(), {name: checkpoint() for name in "ab"}
    broken = dict(base.tensors)
    broken["policy.out.bias"] = torch.tensor([0.0, torch.nan, 0.0, 0.0])
    with pytest.raises(GraftError, match="Numbers of b are not finite: policy"):
        merge(base, {**agents, "b": replace(base, tensors=broken)}, "average")
    huge = replace(base, tensors={name: torch.full_like(t, 3e38) for name, t in base.tensors.items()})
    with pytest.raises(GraftError, match="Numbers of the merged agent are not finite"):
        merge(base, dict.fromkeys("ab", huge), "task_arithmetic", scale=9.0)
