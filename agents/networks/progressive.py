"""Progressive networks: a new column with lateral connections from frozen earlier columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch

from graft.agents.networks.lateral import Trace, block_input, fresh_laterals, output_layers, run_column
from graft.agents.networks.policy_network import (
    LOG_STD_BOUNDS,
    NETWORKS,
    NetworkConfig,
    Outputs,
    PolicyNetwork,
    build_network,
)
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import GraftError

KIND = "progressive"
EARLIER = "earlier"
LATERAL_STREAM = 0x1A7E4A1  # seeds the laterals differently from the column


@NETWORKS.register(KIND)
class ProgressiveNetwork(PolicyNetwork):
    """The newest column has encoder and heads of a plain network; ``earlier`` holds all columns before it.

    h_i = act(W_i h_(i-1) + U_i act(V_i (a * h_(i-1)^(<k)))), with one scalar of ``a`` per layer and earlier column. The
    laterals enter every block of the encoder but the first, and every layer of both heads: the heads' first layer reads
    the earlier columns' features, those above it the hidden units of the earlier columns' own heads.

    Parameters are named as in a plain network, and ``earlier.*`` and ``laterals.*``. ``earlier`` never changes.

    Args:
        schemas, seed: the newest column starts as the plain network of that seed.
        config: ``parts["earlier"]`` holds the schemas and the config of the earlier network; `beside` fills it in.
    Raises:
        GraftError: the earlier network is missing, or the columns do not fit together.
    Source: Rusu et al. 2016, "Progressive Neural Networks", eq. 2. Biases, omitted there: V has one, U shares W's. The
    paper's text has V project to width n_i, the equation to n_(i-1). Here it is n_i, but n_(i-1) in the output layers,
    where n_i would be one unit in the value head.
    """

    def __init__(self, schemas: Schemas, config: NetworkConfig, seed: int) -> None:
        super().__init__(schemas, config, seed)
        self.earlier = _described(config.parts, schemas.observation)
        self.earlier.requires_grad_(False)
        self.eval()  # one observation says nothing about normalisation statistics
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            zeros = torch.zeros(1, *schemas.observation.plain.shape)
            own, traces = run_column(self, zeros), _run_columns(self.earlier, zeros)
            torch.default_generator.manual_seed(seed ^ LATERAL_STREAM)
            self.laterals = fresh_laterals(self, own, traces)
        self._shapes = [{part: [h.shape[1:] for h in blocks] for part, blocks in t.items()} for t in traces]
        self.train()

    @classmethod
    def beside(cls, earlier: PolicyNetwork, schemas: Schemas, config: NetworkConfig, seed: int) -> Self:
        """A fresh column of the architecture ``config`` beside a copy of ``earlier``."""
        description = {
            "observation": earlier.schemas.observation.to_json(),
            "action": earlier.schemas.action.to_json(),
            "network": earlier.config.to_json(),
        }
        parts = json.loads(json.dumps({EARLIER: description}))  # lists for tuples, as a checkpoint gives them back
        network = cls(schemas, replace(config, kind=KIND, parts=parts), seed)
        network.earlier.load_exactly(earlier.state_dict())
        return network

    def train(self, mode: bool = True) -> Self:
        """As in torch, but earlier columns stay in eval mode, so that their statistics are kept."""
        super().train(mode)
        self.earlier.eval()
        return self

    @property
    def columns(self) -> list[PolicyNetwork]:
        """The network with each column as its newest, in order; the last is this one."""
        before = self.earlier.columns if isinstance(self.earlier, ProgressiveNetwork) else [self.earlier]
        return [*before, self]

    @property
    def frozen_depth(self) -> int:
        return 0 if self.masked else 1

    def prefix(self, obs: torch.Tensor, depth: int) -> torch.Tensor:
        """Depth 0: ``obs``. Depth 1: (N, D) floats, the flat observations and then the earlier columns' activations."""
        if depth == 0:
            return obs
        seen = [h for trace in self._earlier_traces(obs) for blocks in trace.values() for h in blocks]
        return torch.cat([h.flatten(1).float() for h in (obs, *seen)], 1)

    def suffix(self, hidden: torch.Tensor, depth: int) -> Outputs:
        if depth == 0:
            obs, forbidden = self.split(hidden)
            return self._newest(obs, self._earlier_traces(obs)).without(forbidden)
        seen = [shape for trace in self._shapes for blocks in trace.values() for shape in blocks]
        shapes = [torch.Size(self.schemas.observation.shape), *seen]
        pieces = zip(torch.split(hidden, [shape.numel() for shape in shapes], 1), shapes, strict=True)
        parts = iter([piece.reshape(-1, *shape) for piece, shape in pieces])
        obs = next(parts)
        traces = [{part: [next(parts) for _ in blocks] for part, blocks in t.items()} for t in self._shapes]
        return self._newest(obs, traces)

    def heads(self, features: torch.Tensor) -> Outputs:
        raise GraftError("The heads of a progressive network read all its columns; call it with observations.")

    @torch.no_grad()
    def _earlier_traces(self, obs: torch.Tensor) -> list[Trace]:
        return _run_columns(self.earlier, obs)

    def _newest(self, obs: torch.Tensor, earlier: Sequence[Trace]) -> Outputs:
        own = run_column(self, obs, self.laterals, earlier)
        outputs = {}
        for key, (part, layer, _) in output_layers(self).items():
            depth = len(own[part])
            added = self.laterals[key]([block_input(trace, part, depth) for trace in earlier])
            outputs[key] = layer(block_input(own, part, depth)) + added
        spread = self.policy.log_std
        if "policy_spread" in outputs:
            spread = outputs["policy_spread"].clamp(*LOG_STD_BOUNDS)
        return Outputs(outputs["policy_out"], spread, outputs["value_out"].squeeze(-1))


def _run_columns(network: PolicyNetwork, obs: torch.Tensor) -> list[Trace]:
    """Activations of every column, in order; each is run once."""
    if not isinstance(network, ProgressiveNetwork):
        return [run_column(network, obs)]
    earlier = _run_columns(network.earlier, obs)
    return [*earlier, run_column(network, obs, network.laterals, earlier)]


def _described(parts: Mapping[str, Any], observation: ObservationSchema) -> PolicyNetwork:
    """The earlier network that ``parts`` describes."""
    if EARLIER not in parts:
        raise GraftError(
            f"A {KIND} network is a column beside an earlier network, and its config has no parts.{EARLIER}; leave the "
            f"kind out, and use a method that makes such networks."
        )
    data = parts[EARLIER]
    seen = ObservationSchema.from_json(data["observation"])
    if not same_view(seen, observation):
        raise GraftError(
            f"All columns look at the same observation, but the earlier network's is {seen.kind} {seen.shape} "
            f"({', '.join(seen.names)}) and the new one's {observation.kind} {observation.shape} "
            f"({', '.join(observation.names)})."
        )
    schemas = Schemas(seen, ActionSchema.from_json(data["action"]))
    network = build_network(schemas, NetworkConfig.from_json(data["network"]), 0)
    if type(network) is not PolicyNetwork and not isinstance(network, ProgressiveNetwork):
        raise GraftError(f"An earlier column is a plain or a {KIND} network, not a {network.config.kind} one.")
    return network


def same_view(a: ObservationSchema, b: ObservationSchema) -> bool:
    """Whether observations of both have the same layout and names; flags of forbidden actions are not looked at."""
    a, b = a.plain, b.plain
    return (a.kind, a.names, a.shape, a.places) == (b.kind, b.names, b.shape, b.places)
