"""What every encoder keeps: tests run it on Graft's own encoders, ``graft check`` on anybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch

from graft.agents.networks.encoder import ENCODERS, Encoder
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.envs.core.schema import ActionSchema, ObservationKind, ObservationSchema, Schemas, joined, uint8_schema
from graft.experiments.contracts.basics import assert_same, expect, observations, scrambled

NAMES = ("a", "b", "c")
ACTIONS = ActionSchema("discrete", ("x", "y"))


def example(kind: ObservationKind, least: int = 1) -> ObservationSchema:
    """A small observation of three names; a picture is large enough for ``least`` rows and columns."""
    side = max(least, 36 if kind == "pixels" else 5)
    if kind == "vector":
        return ObservationSchema("vector", NAMES, ((),) * 3, (3,), "float32", (-1.0,) * 3, (1.0,) * 3)
    if kind == "parts":
        return joined({"view": example("planes"), "state": example("vector")})
    return uint8_schema(kind, NAMES, (3, side, side), 255 if kind == "pixels" else 1)


class Case:
    """An encoder by name, with options, for a small observation of a kind that it takes."""

    def __init__(self, name: str, kind: ObservationKind, options: dict[str, object] | None = None) -> None:
        self.name, self.options = name, options or {}
        self.schema = example(kind, ENCODERS[name].least)
        self.obs = observations(self.schema, 3)

    def network(self, seed: int = 0) -> PolicyNetwork:
        config = NetworkConfig(encoder=self.name, options=self.options, head=(4,))
        return PolicyNetwork(Schemas(self.schema, ACTIONS), config, seed)

    def encoder(self) -> Encoder:
        encoder: Encoder = self.network().encoder.eval()
        return encoder


def features_of_raw_observations(case: Case) -> None:
    """Raw observations become features (N, out_dim) of type float32."""
    encoder = case.encoder()
    features = encoder(case.obs)
    wanted = (3, encoder.out_dim)
    expect(features.shape == wanted, f"features have the shape {tuple(features.shape)}, and out_dim says {wanted}")
    expect(features.dtype == torch.float32, f"features are of type {features.dtype}")
    expect(not torch.equal(features[0], features[1]), "two observations have the same features")


def prefix_and_suffix_compose(case: Case) -> None:
    """Any number of blocks, then the rest, give what all of them give."""
    encoder = case.encoder()
    for depth in range(len(encoder.blocks) + 1):
        got = encoder.suffix(encoder.prefix(case.obs, depth), depth)
        expect(torch.equal(got, encoder(case.obs)), f"the first {depth} blocks, then the rest, are not the whole")


def no_observation_reads_another(case: Case) -> None:
    """The features of an observation do not depend on the others in its batch (in eval mode)."""
    encoder = case.encoder()
    together, alone = encoder(case.obs)[1:2], encoder(case.obs[1:2])
    expect(torch.allclose(together, alone, rtol=1e-5, atol=1e-6), "features depend on other observations of the batch")


def a_name_enters_by_its_stem_slice_alone(case: Case) -> None:
    """Each name of the observation matters, and does not once its slice of the stem is zero."""
    encoder, obs, schema = case.encoder(), case.obs, case.schema
    for name, place in zip(schema.names, schema.places, strict=True):
        stem = next((s for s in encoder.stems if name in s.names and s.dim == 1), None)
        expect(stem is not None, f"no stem names '{name}' of the observation; set stems")
        assert stem is not None
        weight, j = encoder.get_parameter(stem.name), stem.names.index(name)
        size = len(stem.names) * stem.group
        expect(weight.shape[1] == size, f"the stem {stem.name} has {weight.shape[1]} columns, and its names say {size}")
        changed = obs.clone()
        changed[:, place] = 1 - changed[:, place] if obs.is_floating_point() else obs[:, place].flip(0)
        before = encoder(obs)
        expect(not torch.allclose(encoder(changed), before), f"'{name}' of the observation changes no feature")
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, j * stem.group : (j + 1) * stem.group] = 0
        expect(
            not torch.allclose(encoder(obs), before), f"the slice of {stem.name} that is '{name}' changes no feature"
        )
        expect(
            torch.equal(encoder(changed), encoder(obs)), f"'{name}' enters elsewhere than in its slice of {stem.name}"
        )
        with torch.no_grad():
            weight.copy_(kept)


def freezing_reaches_all(case: Case) -> None:
    """All weights and buffers lie in ``blocks``, so that freezing reaches them."""
    encoder = case.encoder()
    outside = [name for name in encoder.state_dict() if not name.startswith("blocks.")]
    expect(not outside, f"{', '.join(outside)} lies outside of blocks, and would not freeze")
    encoder.freeze()
    expect(not any(p.requires_grad for p in encoder.parameters()), "a frozen encoder has weights that train")
    expect(not any(block.training for block in encoder.train().blocks), "a frozen encoder has blocks in training mode")


def freezing_changes_no_output(case: Case) -> None:
    """Features are the same whatever is frozen."""
    encoder = case.encoder()
    before = encoder(case.obs)
    for depth in range(len(encoder.blocks) + 1):
        encoder.freeze(depth)
        expect(torch.equal(encoder(case.obs), before), f"freezing {depth} blocks changes the features")


def every_parameter_is_used(case: Case) -> None:
    """Every parameter gets a gradient."""
    network = scrambled(case.network()).train()
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.mul_(0.001)  # far from where activations saturate
    network.encoder(case.obs).sum().backward()
    unused = [n for n, p in network.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    expect(not unused, f"{', '.join(unused)} gets no gradient")


def same_seed_same_weights(case: Case) -> None:
    """Weights depend on the seed and on nothing else."""
    one, same, other = (case.network(seed).encoder for seed in (3, 3, 4))
    assert_same(one.state_dict(), same.state_dict())
    for stem in one.stems:
        equal = torch.equal(one.get_parameter(stem.name), other.get_parameter(stem.name))
        expect(not equal, f"{stem.name} is the same for every seed; use nn.Linear or nn.Conv2d, or draw it")


CONTRACTS: tuple[Callable[[Case], None], ...] = (
    features_of_raw_observations,
    prefix_and_suffix_compose,
    no_observation_reads_another,
    a_name_enters_by_its_stem_slice_alone,
    freezing_reaches_all,
    freezing_changes_no_output,
    every_parameter_is_used,
    same_seed_same_weights,
)


def cases(name: str, options: dict[str, object]) -> list[Case]:
    """It says which kinds of observations it takes.

    One case for each of them.
    """
    kinds = ENCODERS[name].kinds
    every = [kind for kind in get_args(ObservationKind) if kind != "masked"]  # encoders get what is beside the flags
    expect(kinds and set(kinds) <= {*every}, f"kinds is {kinds!r}; it is a tuple of some of {', '.join(every)}")
    return [Case(name, kind, options) for kind in every if kind in kinds]
