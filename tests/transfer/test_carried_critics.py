"""Critics move with carried heads: columns by observation and action names, for critics and target alike."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import REACH, assert_same, box, small_config, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.critics import CRITICS
from graft.envs.core.schema import Schemas
from graft.transfer.method import METHODS, TaskPosition
from graft.transfer.session import TransferSession

FEATURES, UNITS, STEM = 16, 5, "encoder.blocks.0.1.weight"
SOURCE = Schemas(vector(["a", "b"]), box(["x", "y"]))
TARGET = Schemas(vector(["b", "new", "a"]), box(["y", "jump", "x"]))


def architecture(options=None):
    config = small_config("vector")
    return type(config)(config.encoder, dict(config.options) | (options or {}), config.head, distribution="squashed")


def critics(network: PolicyNetwork, shared: bool = False) -> dict[str, torch.Tensor]:
    """Any numbers, in the layout of critics of one hidden layer."""
    generator = torch.Generator().manual_seed(1)
    layers = {"0.weight": (UNITS, FEATURES + 2), "0.bias": (UNITS,), "2.weight": (1, UNITS), "2.bias": (1,)}
    shapes = {f"heads.{i}.{name}": shape for i in range(2) for name, shape in layers.items()}
    encoder = {f"encoder.{name}": t.shape for name, t in network.encoder.state_dict().items()}
    made = {}
    for group in ("online", "target"):
        own = shapes if shared and group == "online" else shapes | encoder
        made |= {f"{group}.{name}": torch.randn(shape, generator=generator) for name, shape in own.items()}
    return made | {"log_alpha": torch.tensor([-1.5])}


def source(shared: bool = False) -> Checkpoint:
    network = PolicyNetwork(SOURCE, architecture(), 0)
    assert network.encoder.out_dim == FEATURES
    return Checkpoint.of(network, REACH, parts={CRITICS: critics(network, shared)})


def built(method="finetune", target=SOURCE, given=None, **options):
    return TransferSession.begin(METHODS[method](**options), given or source(), target, architecture(), 7)


@pytest.mark.parametrize("heads", ["by_name", "shared"])
def test_the_same_task_gets_them_to_the_bit(heads):
    given = source()
    made = built(given=given, heads=heads)
    assert_same(dict(made.critics), dict(given.parts[CRITICS]))
    rows = [row for row in made.report.rows if row.tensor.startswith(CRITICS)]
    assert {row.tensor for row in rows} == {f"{CRITICS}.{name}" for name in made.critics}
    assert {row.status for row in rows} == {"copied"}
    assert not made.report.partial


def test_fresh_heads_and_old_checkpoints_have_none():
    assert built(heads="fresh").critics == {}
    old = Checkpoint.of(PolicyNetwork(SOURCE, architecture(), 0), REACH)
    assert built(given=old, heads="by_name").critics == {}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("new_channels", ["zero", "random"])
def test_columns_go_by_observation_and_action_names(shared, new_channels):
    """By hand: observations b, new, a of a, b; actions y, jump, x of x, y. What is new is zero, or the network's."""
    given = source(shared)
    made = built(target=TARGET, given=given, heads="by_name", new_channels=new_channels)
    old, new = given.parts[CRITICS], made.critics
    assert new.keys() == old.keys()
    for group in ("online", "target"):
        for head in range(2):
            name = f"{group}.heads.{head}.0.weight"
            features, actions = new[name][:, :FEATURES], new[name][:, FEATURES:]
            assert torch.equal(features, old[name][:, :FEATURES])
            assert torch.equal(actions[:, [0, 2]], old[name][:, [FEATURES + 1, FEATURES]])
            assert actions.shape == (UNITS, 3)
            assert not actions[:, 1].any()
        stem = f"{group}.{STEM}"
        if stem in new:
            assert torch.equal(new[stem][:, [0, 2]], old[stem][:, [1, 0]])
            wanted = made.network.get_parameter(STEM)[:, 1] if new_channels == "random" else torch.zeros(FEATURES)
            assert torch.equal(new[stem][:, 1], wanted)
    same = [name for name in old if not name.endswith(("0.weight", STEM)) or ".2." in name]
    assert_same({name: new[name] for name in same}, {name: old[name] for name in same})
    assert {"new", "jump"} <= set(made.report.lost)


def test_the_estimate_does_not_depend_on_a_new_action_and_is_the_sources():
    given = source()
    made = built(target=Schemas(SOURCE.observation, box(["x", "y", "jump"])), given=given, heads="by_name")
    inputs = torch.randn(9, FEATURES + 2, generator=torch.Generator().manual_seed(2))
    for extra in (-1.0, 0.7):
        wider = torch.cat([inputs, torch.full((9, 1), extra)], 1)
        torch.testing.assert_close(estimate(made.critics, wider), estimate(given.parts[CRITICS], inputs))


def estimate(tensors, inputs):
    name = "online.heads.1"
    hidden = torch.relu(inputs @ tensors[f"{name}.0.weight"].T + tensors[f"{name}.0.bias"])
    return hidden @ tensors[f"{name}.2.weight"].T + tensors[f"{name}.2.bias"]


def test_lora_carries_them_to_its_corrected_encoder():
    given = source()
    assert_same(built("lora", given=given, heads="by_name").critics, dict(given.parts[CRITICS]))


def test_rename_and_similar_observations_hold_for_critics_too():
    given = source()
    target = Schemas(vector(["a", "bee"]), box(["x", "why"]))
    made = built(target=target, given=given, heads="by_name", rename={"bee": "b", "why": "y"})
    assert_same(dict(made.critics), dict(given.parts[CRITICS]))


def test_shrink_perturb_treats_critics_as_the_network():
    given = source()
    made = {s: built("shrink_perturb", given=given, heads="by_name", shrink=s).critics for s in (0.0, 0.5, 1.0)}
    assert_same(dict(made[1.0]), dict(given.parts[CRITICS]))
    for name, old in given.parts[CRITICS].items():
        torch.testing.assert_close(made[0.5][name], 0.5 * old + 0.5 * made[0.0][name])
    fresh = PolicyNetwork(SOURCE, architecture(), 7).encoder.state_dict()
    for name, tensor in made[0.0].items():
        group, _, own = name.partition(".")
        if own.startswith("encoder."):
            assert torch.equal(tensor, fresh[own.removeprefix("encoder.")])
        if group == "online":
            assert torch.equal(tensor, made[0.0][f"target.{own}"])
            assert tensor.abs().max() <= (FEATURES + 2) ** -0.5 or not own.endswith("0.weight") or "heads" not in own
    assert not made[0.0]["log_alpha"].any()


# The session, and checkpoints


def test_they_are_a_part_of_the_checkpoint_and_come_back_with_it(tmp_path):
    session = TransferSession.begin(METHODS["packnet"](heads="by_name"), source(), SOURCE, architecture(), 0)
    session.finish().checkpoint(REACH).save(tmp_path / "one")
    loaded = Checkpoint.load(tmp_path / "one")
    assert_same(dict(loaded.parts[CRITICS]), dict(source().parts[CRITICS]))
    again = TransferSession.of(METHODS["packnet"](), loaded)  # whatever the heads: the same task goes on
    assert_same(again.critics, dict(loaded.parts[CRITICS]))
    again.consolidate(lambda *_: None, TaskPosition(0, 2))
    assert_same(again.critics, dict(loaded.parts[CRITICS]))


def test_warmup_is_of_transfers_only():
    method = METHODS["finetune"](critic_warmup=0.25)
    chain = METHODS["chain"](methods=[method, "redo"])
    assert chain.critic_warmup == 0.25
    for one in (method, chain):
        assert TransferSession.begin(one, source(), SOURCE, architecture(), 0).hooks().critic_warmup == 0.25
    assert TransferSession.of(method, source()).hooks().critic_warmup == 0
    assert TransferSession.begin(None, None, SOURCE, architecture(), 0).hooks().critic_warmup == 0
