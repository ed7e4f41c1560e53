"""What a transfer method builds computes, and what it adds to gradients: a new one is tested here unedited."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from support.method_fixtures import (
    MATCH,
    SETTINGS,
    Setting,
    batch_of,
    build,
    cases,
    ones,
    register_norm_encoder,
    slow_but_for_kinds,
    source_of,
)
from support.tiny_tasks import assert_same, weights

from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.task import Task
from graft.experiments.contracts import methods
from graft.transfer.method import FromSource, TransferMethod, label

TURNED = Task("tiny/Match-v0", {"names": ["d", "a", "c", "b"]})
STEP = 1e-4
"""Of the finite differences: of second order and in double precision, so that their error is about 1e-8."""


@pytest.fixture(scope="module", params=cases(), ids=label)
def method(request: pytest.FixtureRequest) -> TransferMethod:
    return request.param


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch, tiny_tasks: None) -> None:
    register_norm_encoder(monkeypatch)


def in_settings(first: str, *others: str) -> pytest.MarkDecorator:
    """All methods in the first setting, and in others; those are slow tests but for each method's defaults."""
    found = [pytest.param(method, first, id=f"{label(method)}-{first}") for method in cases()]
    for other in others:
        found += [
            pytest.param(*p.values, other, marks=p.marks, id=f"{p.id}-{other}") for p in slow_but_for_kinds(cases())
        ]
    return pytest.mark.parametrize(("method", "setting"), found)


@in_settings("ppo", "sac")
def test_every_parameter_that_trains_changes_the_output_and_is_saved(method, setting):
    methods.what_trains_matters_and_is_saved(method, SETTINGS[setting], source_of(method, setting))


@in_settings("ppo", "mlp", "dqn", "sac")
def test_what_it_adds_is_the_gradient_of_the_penalty_it_reports(method, setting):
    """Along itself and random directions, where nothing is masked; gradients that came in are added to."""
    step = methods.what_it_adds_is_the_penaltys_gradient(method, SETTINGS[setting], source_of(method, setting))
    promised = "strength" in {option.name for option in fields(method)} and method.overrides("gradients")
    assert step.penalty is not None or not promised, "it has a strength, and no penalty where it should"


def test_gradients_have_no_memory_of_their_own(method):
    """The same call gives the same twice: all that a method remembers is in the state, which it leaves as it was."""
    source = source_of(method, "ppo")
    methods.gradients_have_no_memory(method, SETTINGS["ppo"], source)
    if not method.overrides("gradients"):
        network = build(method, SETTINGS["ppo"], source).network
        step = method.gradients(ones(network), network, method.init(network, source), batch_of(network.schemas, 6))
        assert_same(step.grads, ones(network))
        assert step.penalty is None


def unaltered(method: TransferMethod, name: str, task: Task) -> tuple[list[Encoder], PolicyNetwork | None]:
    """The encoders of what is built for ``task`` that the report calls copied, whole and as they were; the source."""
    setting, source = SETTINGS[name], source_of(method, name)
    network, report = build(method, Setting((MATCH, task), setting.algorithm, setting.config), source)
    rows = [] if report is None else report.rows
    found = []
    for prefix, module in network.eval().named_modules():
        own = [row for row in rows if row.tensor.startswith(f"{prefix}.")]
        if isinstance(module, Encoder) and own and all(row.share == 1 and _carried(row.detail) for row in own):
            found.append(module)
    promised = "fresh_weights" not in method.words() and method.uses_source
    assert not promised or network.encoder in found
    if isinstance(method, FromSource):
        assert report is not None
    return found, source.build().eval() if source is not None else None


def _carried(detail: str) -> bool:
    return detail in ("", "reordered by name")


@in_settings("ppo", "mlp")
def test_the_encoder_computes_what_the_sources_does(method, setting):
    """Bit for bit on the source's task, and to rounding where its features come in another order."""
    obs = batch_of(SETTINGS[setting].schemas(0), 6).observations
    for task, seen, tolerance in ((MATCH, obs, 0.0), (TURNED, obs[:, [3, 0, 2, 1]], 1e-6)):
        encoders, source = unaltered(method, setting, task)
        for encoder in encoders:
            assert source is not None
            torch.testing.assert_close(encoder(seen), source.encoder(obs), rtol=0, atol=tolerance)


def test_a_control_starts_from_nothing(method):
    if method.uses_source:
        with pytest.raises(AssertionError, match="always given one"):
            build(method, SETTINGS["ppo"], None)
        return
    fresh = PolicyNetwork(SETTINGS["ppo"].schemas(1), SETTINGS["ppo"].architecture, 1)
    assert_same(weights(build(method, SETTINGS["ppo"], None).network), weights(fresh))
