"""What every transfer method keeps before it trains: a new one is tested here unedited, with each of its choices."""

from __future__ import annotations

import pytest
import torch
from support.method_fixtures import (
    PPO,
    ROLLOUT,
    SETTINGS,
    CheckedSession,
    Setting,
    build,
    cases,
    first,
    of_each_kind,
    quick,
    register_norm_encoder,
    rollouts_of,
    shrunk,
    source_of,
    variants,
    varied,
)
from support.tiny_tasks import assert_same, scrambled, weights

from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.envs.core.task import Task
from graft.experiments.contracts import methods
from graft.transfer.method import (
    METHODS,
    TaskPosition,
    TransferMethod,
    label,
    parse_method,
    to_json,
)

OWN = cases()
ALL = list({label(method): method for method in [*map(quick, variants()), *OWN]}.values())
SOON = {label(method) for method in [*OWN, *map(quick, varied(METHODS["finetune"], own=False))]}
"""The rest differ in options of the transplant, which one method has all of; those are slow tests."""
BOARD = NetworkConfig("grid_cnn", {"channels": [4], "kernels": [3], "strides": [2], "pools": [1], "features": 8}, (8,))
GAME = Setting((Task("Graft/Dodge-v0"), Task("Graft/Dodge-v0", {"slip": 0.2})), PPO, BOARD)


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch, tiny_tasks: None) -> None:
    register_norm_encoder(monkeypatch)


def of_all(methods: list[TransferMethod]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=label)


def in_settings(methods: list[TransferMethod]) -> pytest.MarkDecorator:
    """An encoder with running statistics for all, and one without for each method's defaults."""
    found = [(method, "ppo") for method in methods] + [(method, "mlp") for method in of_each_kind(methods)]
    marked = [
        pytest.param(m, setting, marks=() if label(m) in SOON else pytest.mark.slow, id=f"{label(m)}-{setting}")
        for m, setting in found
    ]
    return pytest.mark.parametrize(("method", "setting"), marked)


@of_all(ALL)
def test_options_are_data(method):
    methods.options_are_data(method)


def test_labels_and_records_tell_methods_apart():
    for tell in (label, lambda method: repr(to_json(method))):
        assert len({tell(method) for method in ALL}) == len(ALL)


@in_settings(ALL)
def test_the_same_seed_builds_the_same_and_nothing_else_changes(method, setting):
    methods.the_same_seed_builds_the_same(method, SETTINGS[setting], source_of(method, setting))


@in_settings([method for method in OWN if method.overrides("consolidate")])
def test_what_it_keeps_of_a_task_leaves_the_random_numbers_alone(method, setting):
    network = shrunk(build_network(SETTINGS[setting].schemas(0), SETTINGS[setting].architecture, 0))
    before = torch.get_rng_state()
    state = method.init(network, None) if method.watches_source else {}
    rollouts = rollouts_of(network.schemas, method.states, method.unroll_states)
    method.consolidate(network, state, rollouts, TaskPosition(0, 2))
    assert torch.equal(torch.get_rng_state(), before)


@in_settings(ALL)
def test_the_network_is_the_targets(method, setting):
    methods.the_network_is_the_targets(method, SETTINGS[setting], source_of(method, setting))


@in_settings(ALL)
def test_the_report_tells_the_truth(method, setting):
    methods.the_report_tells_the_truth(method, SETTINGS[setting], source_of(method, setting))


@in_settings(OWN)
def test_the_source_is_used_where_the_method_says_so(method, setting):
    methods.the_source_is_used_where_it_says_so(method, SETTINGS[setting], source_of(method, setting))


class Stop(Exception):
    """As sudden as a kill."""


@of_all([quick(parse_method(name)) for name in ("packnet", "progressive", "replay", "si")])
def test_stopped_and_resumed_on_a_built_in_game(method, tmp_path):
    """Whose own state is saved. The stop is between two updates; all methods, stopped anywhere, are in their lives.

    These four have masks, columns, random draws, and a state that every update changes.
    """
    source = first(method, GAME)

    def run(stop_at=None, snapshots=None, spoil=False):
        network = build(method, GAME, source).network
        session = CheckedSession(method, network, method.init(network, source))
        if spoil:
            scrambled(network)

        def record(env_steps, values):
            if stop_at is not None and env_steps >= stop_at:
                raise Stop

        plan = Snapshots(snapshots, seconds=1e9, env_steps=1, save=session.save, restore=session.restore)
        session.train(GAME, 1, GAME.budget, record, plan if snapshots else None)
        return session

    with pytest.raises(Stop):
        run(2 * ROLLOUT, tmp_path / "s")
    assert Snapshots(tmp_path / "s").latest().env_steps == ROLLOUT
    resumed, straight = run(snapshots=tmp_path / "s", spoil=True), run()
    assert_same(weights(resumed.network), weights(straight.network))
    assert_same(dict(resumed.state), dict(straight.state))
