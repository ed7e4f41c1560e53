"""Numbers about a source's parameters go where the transplant takes the parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import MATCH, box, discrete, planes, small_config, vector
from support.transplant_fixtures import FLAT_PLANES, LEFT_RIGHT, checkpoint, moved, stem_of

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.schema import Schemas, joined
from graft.errors import GraftError
from graft.transfer.transplant import carried

UP_DOWN = discrete("up", "down")
WORDS = [["self"], ["solid"], ["deadly"], ["deadly"]]
NAMES = ["me", "wall", "fire", "ice"]


def policy_of(source: Checkpoint) -> dict[str, torch.Tensor]:
    """The source's own encoder and policy, as numbers to carry."""
    return {name: t for name, t in source.tensors.items() if not name.startswith("value.")}


def carry(source: Checkpoint, tensors, target: Schemas, new_channels="zero", rename=None):
    return carried(source, tensors, target, new_channels=new_channels, rename=rename or {})


OBSERVATIONS = {
    "the same": (NAMES, WORDS),
    "another order": (["ice", "me", "fire", "wall"], [["deadly"], ["self"], ["deadly"], ["solid"]]),
    "fewer": (["wall", "me"], [["solid"], ["self"]]),
    "new ones": (["lava", "me", "odd"], [["deadly"], ["self"], ["goal"]]),
}


@pytest.mark.parametrize("case", OBSERVATIONS)
@pytest.mark.parametrize("kind", [vector, planes])
@pytest.mark.parametrize("new_channels", ["zero", "attributes"])
def test_the_parameters_themselves_arrive_as_the_transplant_brings_them(case, kind, new_channels):
    """Carrying the weights as if they were importances gives the transplanted network, heads and all."""
    names, words = OBSERVATIONS[case]
    source = checkpoint(kind(NAMES, attributes=WORDS))
    target = kind(names, attributes=words)
    network, _ = moved(source, target, new_channels=new_channels)
    found = carry(source, policy_of(source), network.schemas, new_channels)
    assert found.keys() == {name for name in network.state_dict() if not name.startswith("value.")}
    for name, tensor in found.items():
        assert torch.equal(tensor, network.state_dict()[name]), name


@pytest.mark.parametrize("new_channels", ["zero", "random", "attributes"])
def test_what_the_source_never_had_is_zero(new_channels):
    """By hand: columns b, nothing, a; rows of known actions, and nothing for the new one."""
    source = checkpoint(vector(["a", "b"]))
    target = Schemas(vector(["b", "new", "a"]), discrete("right", "jump"))
    found, old = carry(source, policy_of(source), target, new_channels), source.tensors
    stem = "encoder.blocks.0.1.weight"
    assert torch.equal(found[stem][:, [0, 2]], old[stem][:, [1, 0]])
    assert not found[stem][:, 1].any()
    for name in ("policy.out.weight", "policy.out.bias"):
        assert torch.equal(found[name][0], old[name][1])
        assert not found[name][1].any()
    assert torch.equal(found["encoder.blocks.1.1.weight"], old["encoder.blocks.1.1.weight"])


def test_rename_holds_for_observations_and_actions():
    source = checkpoint(vector(["a", "b"]))
    target = Schemas(vector(["bee", "a"]), discrete("port", "right"))
    found = carry(source, policy_of(source), target, rename={"bee": "b", "port": "left"})
    assert torch.equal(found["encoder.blocks.0.1.weight"], source.tensors["encoder.blocks.0.1.weight"][:, [1, 0]])
    assert torch.equal(found["policy.out.bias"], source.tensors["policy.out.bias"])


def test_standard_deviations_go_by_action_names():
    source = checkpoint(vector(["a", "b"]), box(["x", "y"]))
    found = carry(source, policy_of(source), Schemas(vector(["a", "b"]), box(["y", "z", "x"])))
    old = source.tensors["policy.log_std"]
    assert found["policy.log_std"].tolist() == [float(old[1]), 0.0, float(old[0])]


def test_only_what_was_given_comes_back_and_nothing_is_shared_with_it():
    source = checkpoint(vector(["a", "b"]))
    name = "encoder.blocks.1.1.bias"
    given = {name: torch.arange(16.0), "encoder.unheard.of": torch.ones(3)}
    found = carry(source, given, Schemas(vector(["b", "a"]), UP_DOWN))
    assert found.keys() == {name}
    assert torch.equal(found[name], given[name])
    found[name].zero_()
    assert given[name].any()


def test_what_has_another_shape_is_left_out():
    """A linear layer on the whole board, at the stem or above convolutions."""
    flat = checkpoint(planes("ab", 4, 4), config=FLAT_PLANES)
    stem = stem_of(flat.build())
    assert stem in carry(flat, policy_of(flat), Schemas(planes("ba", 4, 4), LEFT_RIGHT))
    assert stem not in carry(flat, policy_of(flat), Schemas(planes("ba", 4, 5), LEFT_RIGHT))
    source = checkpoint(planes("ab", 5, 5))
    found = carry(source, policy_of(source), Schemas(planes("ba", 9, 9), LEFT_RIGHT))
    missing = policy_of(source).keys() - found.keys()
    assert missing == {"encoder.blocks.2.1.weight"}


def test_the_encoders_numbers_move_between_algorithms_of_other_actions():
    """A squashed source's importances for a target of discrete actions: no spread, and its heads are not asked for."""
    config = replace(small_config("vector"), distribution="squashed")
    source = checkpoint(vector(["a", "b"]), box(["x", "y"]), config)
    encoder = {name: t for name, t in source.tensors.items() if name.startswith("encoder.")}
    found = carry(source, encoder, Schemas(vector(["b", "a"]), UP_DOWN))
    assert found.keys() == encoder.keys()


def test_nothing_in_common():
    source = checkpoint(vector(["a", "b"]))
    with pytest.raises(GraftError, match="shares nothing with the source"):
        carry(source, policy_of(source), Schemas(vector(["c"]), LEFT_RIGHT))
    with pytest.raises(GraftError, match="Heads cannot be carried by name"):
        carry(source, policy_of(source), Schemas(vector(["a"]), UP_DOWN))


def test_an_encoder_that_cannot_read_the_target():
    source = checkpoint(vector(["a", "b"]))
    with pytest.raises(GraftError, match="cannot take a parts observation"):
        carry(source, policy_of(source), Schemas(joined({"a": vector(["a"]), "b": vector(["b"])}), LEFT_RIGHT))


def test_the_random_numbers_of_the_process_are_left_alone():
    source = Checkpoint.of(PolicyNetwork(MATCH, small_config("vector"), 0), checkpoint(vector("ab")).task)
    before = torch.get_rng_state()
    carry(source, policy_of(source), MATCH)
    assert torch.equal(torch.get_rng_state(), before)
