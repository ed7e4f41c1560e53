"""What every transfer method keeps before it trains: a new one is tested here unedited, with each of its choices."""

from __future__ import annotations

from dataclasses import is_dataclass, replace

import pytest
import torch
from support.method_fixtures import (
    MATCH,
    PPO,
    ROLLOUT,
    SETTINGS,
    CheckedSession,
    Setting,
    build,
    cases,
    first,
    held,
    of_each_kind,
    quick,
    register_norm_encoder,
    rollouts_of,
    shrunk,
    source_of,
    variants,
)
from support.tiny_tasks import assert_same, observations, scrambled, weights

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork, build_network
from graft.envs.core.options import build_options
from graft.envs.core.task import Task
from graft.transfer.method import (
    METHODS,
    Built,
    State,
    TaskPosition,
    TransferMethod,
    changed_options,
    label,
    method_name,
    parse_method,
    to_json,
)

OWN = cases()
ALL = list({label(method): method for method in [*map(quick, variants()), *OWN]}.values())
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
    return pytest.mark.parametrize(("method", "setting"), found, ids=lambda v: v if isinstance(v, str) else label(v))


def begin(method: TransferMethod, setting: str) -> tuple[Built, State]:
    """What it makes of the end of the first task for the second, and what it remembers then."""
    source = source_of(method, setting)
    built = build(method, SETTINGS[setting], source)
    return built, method.init(built.network, source)


def frozen(network: PolicyNetwork) -> tuple[set[str], int]:
    return {name for name, p in network.named_parameters() if not p.requires_grad}, network.encoder.frozen_blocks


@of_all(ALL)
def test_options_are_data(method):
    assert is_dataclass(method)
    with pytest.raises(AttributeError):
        method.anything = 1
    name, options = method_name(method), changed_options(method)
    assert METHODS[name] is type(method)
    assert build_options(f"method {name}", METHODS[name], options) == method
    assert label(method).startswith(name)
    assert to_json(method)["name"] == name


def test_labels_and_records_tell_methods_apart():
    for tell in (label, lambda method: repr(to_json(method))):
        assert len({tell(method) for method in ALL}) == len(ALL)


@in_settings(ALL)
def test_the_same_seed_builds_the_same_and_nothing_else_changes(method, setting):
    before, state = held(source_of(method, setting)), torch.get_rng_state()
    (one, remembered), (again, remembered_again) = (begin(method, setting) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(held(source_of(method, setting)), before)
    assert_same(weights(one.network), weights(again.network))
    assert_same(dict(remembered), dict(remembered_again))
    assert one.report == again.report
    assert frozen(one.network) == frozen(again.network)


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
    network = begin(method, setting)[0].network
    assert network.schemas == SETTINGS[setting].schemas(1)
    outputs = network(observations(network.schemas.observation, 3))
    assert outputs.action.shape == (3, 4)
    assert outputs.action.isfinite().all()


@in_settings(ALL)
def test_the_report_tells_the_truth(method, setting):
    (network, report), state = begin(method, setting)
    promised = method.uses_source and "fresh_weights" not in method.words()
    if report is None:
        assert not promised
        return
    source, after = source_of(method, setting), weights(method.finish(network, state))
    assert source is not None
    assert sorted(row.tensor for row in report.rows if row.status != "dropped") == sorted(after)
    for row in report.rows:
        assert row.share == 1.0 or row.status != "copied"
        assert (row.share == 0.0) is (row.status in ("initialised", "dropped"))
        if row.status == "copied" and not row.detail:
            assert torch.equal(after[row.tensor], source.tensors[row.tensor.removeprefix("earlier.")])
    assert {"new", "c"} <= set(report.lost)
    same = build(method, SETTINGS[setting], source, index=0).report
    assert not (promised and same.partial), "something is lost although the task is the same"


@in_settings(OWN)
def test_the_source_is_used_where_the_method_says_so(method, setting):
    source = source_of(method, setting)
    if source is None:
        given = Checkpoint.of(build_network(SETTINGS[setting].schemas(0), SETTINGS[setting].architecture, 0), MATCH)
        networks = [build(method, SETTINGS[setting], s).network for s in (None, given)]
        assert_same(*map(weights, networks))
        return
    other = replace(Checkpoint.of(scrambled(source.build(), seed=9), MATCH), parts=source.parts)
    built = [build(method, SETTINGS[setting], s).network for s in (source, other)]
    one, another = (
        {**weights(network), **method.init(network, s)} for network, s in zip(built, (source, other), strict=True)
    )
    assert any(not torch.equal(one[name], another[name]) for name in one)


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
