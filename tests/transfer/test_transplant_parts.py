"""Transplants between observations of several parts: each part's branch by name, and parts that come and go."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import TASK, observations, planes, small_config, small_network, vector
from support.transplant_fixtures import LEFT_RIGHT, checkpoint, moved, rows

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import build_encoder
from graft.agents.networks.normaliser import normalisers
from graft.envs.core.schema import ObservationSchema, Schemas, joined
from graft.errors import GraftError
from graft.transfer.memory import aligned

OLD = joined({"view": planes(["wall", "coin"]), "state": vector(["speed", "fuel"])})


def part(schema: ObservationSchema, obs: torch.Tensor, name: str) -> torch.Tensor:
    """The numbers of one part."""
    places = [p for n, p in zip(schema.names, schema.places, strict=True) if n.startswith(f"{name}/")]
    return obs[:, places[0].start : places[-1].stop]


def test_reordered_parts_and_names_give_the_same_features():
    new = joined({"state": vector(["fuel", "speed"]), "view": planes(["coin", "wall"])})
    source = checkpoint(OLD)
    network, report = moved(source, new)
    obs = observations(OLD, 6)
    shown = aligned(obs, OLD, new, {})
    assert not torch.equal(shown, obs)
    torch.testing.assert_close(network(shown).action, source.build()(obs).action)
    assert rows(report)["encoder.blocks.0.parts.view.blocks.0.0.weight"] == ("remapped", 1.0, "reordered by name")


@pytest.mark.parametrize("new_channels", ["zero", "attributes"])
def test_a_new_part_changes_nothing_until_it_is_learned(new_channels):
    new = joined({"sound": vector(["loud"]), "view": planes(["wall", "coin"]), "state": vector(["speed", "fuel"])})
    source = checkpoint(OLD)
    network, report = moved(source, new, new_channels=new_channels)
    obs = observations(new, 6)
    torch.testing.assert_close(network(obs).action, source.build()(aligned(obs, new, OLD, {})).action)
    assert rows(report)["encoder.blocks.0.joins.sound.weight"] == ("padded", 0.0, "new: sound (zero)")
    assert {"sound", "sound/loud"} <= set(report.lost)


@pytest.mark.parametrize("new_channels", ["zero", "attributes"])
def test_a_new_part_is_learned(new_channels):
    """On a target that only it tells."""
    new = joined({"sound": vector(["loud", "bass"]), "view": planes(["wall", "coin"])})
    learned = small_network(Schemas(joined({"view": planes(["wall", "coin"])}), LEFT_RIGHT))
    network, _ = moved(Checkpoint.of(learned, TASK), new, new_channels=new_channels)
    obs, optimiser, losses = observations(new, 64), torch.optim.Adam(network.parameters(), 1e-2), []
    obs[:, 2:] = 0
    for _ in range(200):
        loss = (network(obs).value - obs[:, 0].sign()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2  # 1 without a look at it


def test_a_part_that_is_gone_is_named():
    network, report = moved(checkpoint(OLD), joined({"view": planes(["wall", "coin"])}))
    assert network.schemas.observation.shape == (50,)
    dropped = [name for name, (status, *_) in rows(report).items() if status == "dropped"]
    assert dropped
    assert all(".state." in name for name in dropped)


def test_a_board_of_another_size_costs_what_reads_the_whole_board():
    new = joined({"view": planes(["wall", "coin"], 9, 9), "state": vector(["speed", "fuel"])})
    found = rows(moved(checkpoint(OLD), new)[1])
    assert found["encoder.blocks.0.parts.view.blocks.0.0.weight"][0] == "copied"
    assert found["encoder.blocks.0.parts.view.blocks.2.1.weight"][0] == "initialised"


def test_nothing_in_common():
    with pytest.raises(GraftError, match=r"observations are other/x, the source's view/wall, view/coin"):
        moved(checkpoint(OLD), joined({"other": vector(["x"])}))


def test_each_branch_takes_its_options_and_a_wrong_one_is_named():
    encoders = {"view": {"encoder": "mlp", "options": {"widths": [4]}}}
    built = build_encoder("branches", OLD, {"features": 8, "encoders": encoders})
    assert built(observations(OLD, 3)).shape == (3, 8)
    assert built.get_parameter("blocks.0.parts.view.blocks.0.1.weight").shape == (4, 50)
    with pytest.raises(GraftError, match=r"Unknown part of the observation 'vew'.*Did you mean 'view'"):
        build_encoder("branches", OLD, {"encoders": {"vew": {}}})
    with pytest.raises(GraftError, match="Unknown entry of encoders: view 'encode'"):
        build_encoder("branches", OLD, {"encoders": {"view": {"encode": "mlp"}}})
    assert small_config("parts").encoder is None


def test_a_branchs_own_options_leave_normalisation_on():
    given = {"normalise": True, "encoders": {"state": {"options": {"widths": [4]}}}}
    assert len(normalisers(build_encoder("branches", OLD, given))) == 1
    given["encoders"]["state"]["options"]["normalise"] = False
    assert normalisers(build_encoder("branches", OLD, given)) == []
