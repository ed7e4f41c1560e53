"""A PolicyNetwork as an RLModule of RLlib's new API stack."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Self, TypeVar, cast

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
    TorchMultiCategorical,
)
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import TargetNetworkAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule, MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn
from torch.nn.utils import parametrize

from graft.agents.networks.policy_network import Outputs, PolicyNetwork, check_finite
from graft.envs.core.schema import ActionSchema

T = TypeVar("T")


class Reference(Generic[T]):
    """A value inside an RLlib config that deep copies of the config share; other processes get a copy."""

    def __init__(self, value: T) -> None:
        self.value = value

    def __deepcopy__(self, memo: Any) -> Reference[T]:
        return self


class NetworkReference(Reference[PolicyNetwork]):
    """A network whose parametrised layers (`lora`), which torch refuses to pickle, are pickled apart."""

    def __getstate__(self) -> dict[str, Any]:
        network = copy.deepcopy(self.value)
        trains = {name for name, p in network.named_parameters() if p.requires_grad}
        weights, layers = network.state_dict(), []
        for path, layer in list(network.named_modules()):
            if parametrize.is_parametrized(layer):
                parametrized = dict(layer.parametrizations.items())
                # Not remove_parametrizations: it changes the layer's class, which the original network shares.
                layer.__class__ = type(layer).__bases__[0]
                del layer.parametrizations
                for name, parts in parametrized.items():
                    layer.register_parameter(name, parts.original)
                    layers.append((path, name, list(parts)))
        return {"network": network, "layers": layers, "weights": weights, "trains": trains}

    def __setstate__(self, state: dict[str, Any]) -> None:
        network = state["network"]
        for path, name, parts in state["layers"]:
            for part in parts:
                parametrize.register_parametrization(network.get_submodule(path), name, part, unsafe=True)
        network.load_exactly(state["weights"])
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in state["trains"])
        self.value = network


def distribution_inputs(outputs: Outputs) -> torch.Tensor:
    """The heads' outputs as inputs of RLlib's distributions: logits (N, A), or means and log deviations (N, 2 A)."""
    if outputs.log_std is None:
        return outputs.action
    return torch.cat([outputs.action, outputs.log_std.expand_as(outputs.action)], -1)


def distribution_class(actions: ActionSchema) -> type[Any]:
    """RLlib's distribution for ``actions``, of the default kind (see `Outputs`)."""
    if actions.kind == "box":
        return TorchDiagGaussian
    if not actions.sizes:
        return TorchCategorical
    made: Any = TorchMultiCategorical
    return cast(type[Any], made.get_partial_dist_cls(input_lens=list(actions.sizes)))


class NetworkModule(TorchRLModule, ValueFunctionAPI):
    """Wraps a copy of the network in ``model_config["network"]``, a `Reference`, with weights and frozen parts.

    Attributes:
        network: what is trained. input_depth: how many of its first blocks observations have passed already.
    """

    network: PolicyNetwork
    input_depth: int

    def setup(self) -> None:
        assert isinstance(self.model_config, dict)
        self.network = copy.deepcopy(self.model_config["network"].value)
        self.input_depth = 0
        self.action_dist_cls = distribution_class(self.network.schemas.action)

    def no_sync(self) -> AbstractContextManager[None]:
        """Nothing to do: the learner averages gradients, not the module."""
        return nullcontext()

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs: Outputs = self.network.suffix(batch[Columns.OBS], self.input_depth)
        check_finite(outputs)
        # `compute_values` reads the values from the embeddings.
        return {Columns.ACTION_DIST_INPUTS: distribution_inputs(outputs), Columns.EMBEDDINGS: outputs.value}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Values (N,): of the forward pass (``embeddings``), else computed without gradients."""
        if isinstance(embeddings, torch.Tensor):
            return embeddings
        with torch.no_grad():
            return cast(torch.Tensor, self.network(batch[Columns.OBS]).value)


class TargetNetworkModule(NetworkModule, TargetNetworkAPI):
    """A module whose learners keep a target, a delayed copy of ``online``, in eval mode."""

    target: Any

    @property
    def online(self) -> nn.Module:
        return self.network

    def make_target_networks(self) -> None:
        self.target = make_target_network(self.online).eval()

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.online, self.target)]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if "target" in self._modules:
            self.target.eval()
        return self


def module_spec(network: PolicyNetwork, shares: bool = False) -> RLModuleSpec:
    """Spec of a network's module; ``shares``: its encoder is that of the trained policy."""
    return RLModuleSpec(
        module_class=NetworkModule,
        observation_space=network.schemas.observation.space(),
        action_space=network.schemas.action.space(),
        model_config={"network": NetworkReference(network), "shares": shares},
    )


class SquadModule(MultiRLModule):
    """Several networks, of which some share the encoder of the trained policy."""

    def setup(self) -> None:
        super().setup()  # type: ignore[no-untyped-call]  # Ray's
        modules: dict[str, Any] = self._rl_modules
        for module in modules.values():
            if module.model_config["shares"]:
                module.network.encoder = modules[DEFAULT_MODULE_ID].network.encoder


def squad_spec(network: PolicyNetwork, partners: Mapping[str, PolicyNetwork]) -> MultiRLModuleSpec:
    """Spec of a squad's modules: the trained network, and its partners by policy."""
    specs = {name: module_spec(other, other.encoder is network.encoder) for name, other in partners.items()}
    return MultiRLModuleSpec(
        multi_rl_module_class=SquadModule, rl_module_specs={DEFAULT_MODULE_ID: module_spec(network), **specs}
    )
