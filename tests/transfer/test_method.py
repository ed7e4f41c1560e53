"""Options, labels and defaults of methods; what all methods have in common is in tests/contract."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from support.tiny_tasks import assert_same, discrete, planes, scrambled, small_config, small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.options import build_options
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.transfer.method import METHODS, FromSource, TaskPosition, TransferMethod, changed_options, label, method_name
from graft.transfer.transplant import transplant

ACTIONS = discrete("left", "right")
SAME = Schemas(planes("ab", 5, 5), ACTIONS)


@pytest.fixture
def source() -> Checkpoint:
    return Checkpoint.of(scrambled(small_network(SAME)), Task("tiny/Source-v0"))


def build(name: str, source: Checkpoint | None, target: Schemas = SAME, seed: int = 1, **options):
    return METHODS[name](**options).build(source, target, small_config("planes"), seed)


def test_scratch_is_the_fresh_network():
    built = build("scratch", None)
    assert_same(dict(built.network.state_dict()), dict(PolicyNetwork(SAME, small_config("planes"), 1).state_dict()))
    assert all(p.requires_grad for p in built.network.parameters())


def test_random_frozen_is_scratch_with_a_frozen_encoder():
    built = build("random_frozen", None)
    assert_same(dict(built.network.state_dict()), dict(build("scratch", None).network.state_dict()))
    assert not any(p.requires_grad for p in built.network.encoder.parameters())
    assert all(p.requires_grad for n, p in built.network.named_parameters() if not n.startswith("encoder."))


def test_the_controls():
    controls = {name for name, kind in METHODS.items() if "control" in kind.provides}
    assert controls == {"scratch", "random_frozen"}
    assert not any(METHODS[name].uses_source for name in controls)
    assert all(kind.uses_source for name, kind in METHODS.items() if issubclass(kind, FromSource))


def test_finetune_is_the_transplant_with_everything_trainable(source):
    options = {"heads": "by_name", "new_channels": "random", "rename": {"z": "a"}, "strict": False}
    target = Schemas(planes("zxb", 5, 5), ACTIONS)
    network, report = transplant(source, target, seed=4, **options)
    built = build("finetune", source, target, 4, **options)
    assert_same(dict(built.network.state_dict()), dict(network.state_dict()))
    assert built.report == report
    assert all(p.requires_grad for p in built.network.parameters())


def test_the_sources_architecture_is_kept(source):
    other = NetworkConfig("mlp", {"widths": [3]}, (), activation="elu")
    assert METHODS["finetune"]().build(source, SAME, other, 1).network.config == source.network
    assert METHODS["scratch"]().build(None, SAME, other, 1).network.config == other


def test_strict_reaches_the_transplant(source):
    target = Schemas(planes("abx", 5, 5), ACTIONS)
    build("finetune", source, target)
    for name in ("finetune", "frozen"):
        with pytest.raises(GraftError, match=r"strict.*x"):
            build(name, source, target, strict=True)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("frozen", {"depth": 0}, "method frozen: depth=0 is not allowed"),
        ("frozen", {"depth": "some"}, "method frozen: depth='some' is not allowed"),
        ("finetune", {"heads": "old"}, "method finetune: heads='old' is not allowed.*'fresh', 'by_name' or 'shared'"),
        ("finetune", {"new_channels": "noise"}, "'zero', 'random' or 'attributes'"),
        ("finetune", {"head": "fresh"}, "Unknown option of method finetune 'head'.*Did you mean 'heads'"),
        ("scratch", {"heads": "fresh"}, "Unknown option of method scratch 'heads'"),
    ],
)
def test_options_that_are_not_allowed(name, options, words):
    with pytest.raises(GraftError, match=words):
        build_options(f"method {name}", METHODS[name], options)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("scratch", {}, "scratch"),
        ("finetune", {}, "finetune"),
        ("finetune", {"heads": "auto", "rename": {}}, "finetune"),
        ("finetune", {"heads": "by_name"}, "finetune(heads=by_name)"),
        ("frozen", {"depth": 2, "strict": True}, "frozen(strict=True, depth=2)"),
        ("finetune", {"rename": {"a": "b"}}, "finetune(rename={'a': 'b'})"),
    ],
)
def test_labels_by_hand(name, options, expected):
    method = METHODS[name](**options)
    assert label(method) == expected
    assert method_name(method) == name
    assert METHODS[name](**changed_options(method)) == method


def test_unknown_methods_get_the_nearest():
    with pytest.raises(GraftError, match=r"Unknown method 'finetun'.*Did you mean 'finetune'"):
        METHODS["finetun"]


def test_the_seam_does_nothing_by_itself(source):
    @dataclass(frozen=True, kw_only=True)
    class Nothing(TransferMethod):
        pass

    with pytest.raises(NotImplementedError):
        Nothing().build(source, SAME, small_config("planes"), 0)
    network, state = small_network(SAME), {"x": torch.zeros(1)}
    grads = {"policy.out.bias": torch.ones(2)}
    assert Nothing().init(network, source) == {}
    step = Nothing().gradients(grads, network, state, None)
    assert step.grads is grads
    assert step.state is state
    assert step.penalty is None
    assert Nothing().schedule(network, state, 0.0) is state
    assert Nothing().consolidate(network, state, None, TaskPosition(0, 1)) == (network, state)
    assert Nothing().finish(network, state) is network
    assert Nothing().rates(network, {}) == {}
    assert Nothing().view(network, state, 0) is network


@pytest.mark.parametrize("options", [{"heads": "x"}, {"new_channels": "none"}, {"strict": "perhaps"}])
def test_options_are_checked_in_python_as_in_a_config(options):
    with pytest.raises(GraftError, match=f"Finetune: {next(iter(options))}=.* is not allowed"):
        METHODS["finetune"](**options)
