"""Box actions between tasks of other bounds: their place between the bounds is carried, or their number."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_tasks import box, observations, vector
from support.transplant_fixtures import checkpoint, moved

from graft.agents.networks.policy_network import PolicyNetwork
from graft.envs.core.schema import ActionSchema, Schemas
from graft.transfer.memory import _with_actions
from graft.transfer.methods.ewc import EWC
from graft.transfer.transplant import carried
from graft.transfer.vtrace import log_probability

INF = math.inf
SEEN = vector(["a", "b"])
OBS = observations(SEEN, 300)
OPEN, CLOSED = box(["x", "y"], -INF, INF), ActionSchema("box", ("x", "y"), (0.0, -3.0), (9.0, 5.0))


def of(actions: ActionSchema) -> PolicyNetwork:
    """A source whose actions are spread over [-1, 1] and its surroundings."""
    source = checkpoint(SEEN, actions)
    network = source.build()
    with torch.no_grad():
        network.policy.out.weight.mul_(0.1)
        network.policy.out.bias.fill_(-0.2)
        network.policy.log_std.fill_(-0.5)
    return network


def carry(network: PolicyNetwork, actions: ActionSchema, **options) -> PolicyNetwork:
    return moved(source_of(network), SEEN, actions, **options)[0]


def source_of(network: PolicyNetwork):
    return type(checkpoint(SEEN, network.schemas.action)).of(network, checkpoint(SEEN).task)


def played(network: PolicyNetwork) -> torch.Tensor:
    return network.act(OBS, torch.Generator().manual_seed(1))


def test_an_action_keeps_its_place_between_other_bounds():
    source = of(CLOSED)
    target = carry(source, ActionSchema("box", ("y", "x"), (-1.0, 0.0), (1.0, 1000.0)))
    low, high = torch.tensor([0.0, -3.0]), torch.tensor([9.0, 5.0])
    place = (source.act(OBS, None, deterministic=True) - low) / (high - low)
    found = (target.act(OBS, None, deterministic=True) - torch.tensor([-1.0, 0.0])) / torch.tensor([2.0, 1000.0])
    torch.testing.assert_close(found, place.flip(1), rtol=1e-5, atol=1e-6)
    assert torch.equal(target.policy.log_std, source.policy.log_std.flip(0))


@pytest.mark.parametrize(("before", "after"), [(CLOSED, OPEN), (OPEN, CLOSED)], ids=["to open", "to closed"])
def test_where_one_has_no_bounds_the_numbers_are_kept(before, after):
    """Beyond the bounds that there are, they are clipped."""
    source = of(before)
    expected = source.draw(source(OBS), torch.Generator().manual_seed(1))
    if before is CLOSED:
        expected = torch.tensor([4.5, 1.0]) + torch.tensor([4.5, 4.0]) * expected
    expected = expected.clamp(torch.tensor(after.low), torch.tensor(after.high))
    torch.testing.assert_close(played(carry(source, after)), expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_new_action_starts_in_the_units_of_the_target():
    target = carry(of(OPEN), box(["x", "new"], 0.0, 1000.0))
    assert target.policy.log_std[1] == 0.0
    assert target.policy.out.bias[1] == 0.0
    torch.testing.assert_close(target.policy.log_std[0], torch.tensor(-0.5 - math.log(500.0)))


def test_penalties_are_kept_as_well():
    """Of a carried anchor and its importances, around a network that was carried alike."""
    source = of(CLOSED)
    names = [n for n, _ in source.named_parameters() if n.startswith("policy.")]
    generator = torch.Generator().manual_seed(0)
    omega = {n: torch.rand(t.shape, generator=generator) for n, t in source.state_dict().items() if n in names}
    state = EWC().anchored(source, {}, omega, 0)
    here = of(CLOSED)
    with torch.no_grad():
        for p in here.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
    target = carry(here, OPEN)

    def penalty(network, anchor, omega):
        apart = dict(network.named_parameters())
        return sum((omega[n] * (apart[n] - anchor[n]).square()).sum() for n in names)

    parts = {kind: {n: state[f"{kind}.0.{n}"] for n in names} for kind in ("anchor", "omega")}
    options = {"new_channels": "zero", "rename": {}}
    schemas = Schemas(SEEN, OPEN)
    anchor = carried(source_of(source), parts["anchor"], schemas, meaning="weights", **options)
    held = carried(source_of(source), parts["omega"], schemas, meaning="importances", **options)
    torch.testing.assert_close(penalty(target, anchor, held), penalty(here, parts["anchor"], parts["omega"]))


def test_the_memory_of_a_box_goes_with_its_policy():
    """The density of what was played is the stored policy's, over the numbers' new size."""
    source = of(CLOSED)
    outputs = source(OBS)
    drawn = source.draw(outputs, torch.Generator().manual_seed(2))
    stored = {"action": outputs.action, "log_std": outputs.log_std, "taken": drawn, "known": torch.ones(2).bool()}
    found = _with_actions(stored, source.schemas, Schemas(SEEN, OPEN), {})
    then = outputs._replace(action=found["action"], log_std=found["log_std"])
    before, after = (log_probability(*pair)[0] for pair in ((outputs, drawn), (then, found["taken"])))
    torch.testing.assert_close(after, before - math.log(4.5 * 4.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["taken"], torch.tensor([4.5, 1.0]) + torch.tensor([4.5, 4.0]) * drawn)
