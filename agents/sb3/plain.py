"""A policy network as a zip of plain Stable-Baselines3, which loads it, plays it and trains it on without Graft."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage
from torch import nn

from graft.agents.networks.box_units import from_units
from graft.agents.networks.encoders.conv import NatureCNN
from graft.agents.networks.encoders.mlp import MLP
from graft.agents.networks.normaliser import EPSILON, Normaliser
from graft.agents.networks.policy_network import Distribution, PolicyNetwork
from graft.envs.adapters.gymnasium.adapter import GymnasiumAdapter
from graft.envs.adapters.gymnasium.wrappers import find_wrappers
from graft.envs.core.naming import split_names
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Task
from graft.envs.core.wrappers import WRAPPERS
from graft.envs.factory import adapter_for
from graft.envs.factory import schemas as task_schemas
from graft.errors import GraftError

BUFFER = 100_000  # transitions that SAC and DQN keep; the library's default takes ten times the memory

PLACES: dict[Distribution | None, dict[str, tuple[str, str | None]]] = {
    None: {"policy": ("mlp_extractor.policy_net.", "action_net."), "value": ("mlp_extractor.value_net.", "value_net.")},
    "squashed": {"policy": ("actor.latent_pi.", "actor.mu.")},
    "greedy": {"policy": ("q_net.q_net.", None)},
}
"""By distribution, head -> how the library's names of its hidden layers and of its last one begin; None: as the hidden
ones."""

HINT = "--to onnx takes every agent."

Layers = list[nn.Linear]
Native = Callable[[NDArray[Any]], NDArray[Any]]
Tensors = dict[str, torch.Tensor]


def plain_algorithm(network: PolicyNetwork, own: OwnSpaces, seed: int = 0) -> BaseAlgorithm:
    """PPO, DQN (of Q values) or SAC (of a squashed policy) of the library, with the same greedy actions: with its
    MlpPolicy, or for `nature_cnn` its CnnPolicy.

    Statistics of a `Normaliser`, the scale of pixels and that of box actions become parts of the first and the last
    layer; that normalised values are clipped is lost. The value function is the network's; SAC's critics are fresh, as
    the library's read observations and actions together.

    Args:
        own: of the task (`own_spaces`).
    Raises:
        GraftError: a network that its policies cannot hold.
    """
    check_fit(network)
    kind, encoder, hidden = "MlpPolicy", _encoder_layers(network), _layers(network.policy.hidden)
    policy: dict[str, Any] = {"activation_fn": _activation(network), "normalize_images": False}
    if isinstance(network.encoder, NatureCNN):
        kind = "CnnPolicy"
        policy |= {"normalize_images": True, "features_extractor_kwargs": {"features_dim": network.encoder.out_dim}}
    widths = [layer.out_features for layer in (*encoder, *hidden)]
    values = [layer.out_features for layer in (*encoder, *_layers(network.value.hidden))]
    distribution = network.config.distribution
    options: dict[str, Any] = {"env": None, "seed": seed, "device": "cpu", "_init_setup_model": False}
    if distribution == "squashed":
        policy["net_arch"] = {"pi": widths, "qf": widths or [256, 256]}
        options["target_entropy"] = -float(len(network.schemas.action.names))  # as "auto", which asks an environment
        model: BaseAlgorithm = SAC(kind, policy_kwargs=policy, buffer_size=BUFFER, **options)
    elif distribution == "greedy":
        policy["net_arch"] = widths
        model = DQN(kind, policy_kwargs=policy, buffer_size=BUFFER, **options)
    else:
        policy["net_arch"] = {"pi": widths, "vf": values}
        model = PPO(kind, policy_kwargs=policy, **options)
    model.observation_space, model.action_space = own.observation, own.action
    model.n_envs = 1
    model._setup_model()
    model.policy.load_state_dict(_tensors(network, model.policy.state_dict()))
    return model


def to_zip(model: BaseAlgorithm) -> bytes:
    """What the library's ``load`` reads."""
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def predictor(data: bytes, kind: type[BaseAlgorithm], native: Native) -> Native:
    """Observations (N, *obs_shape) -> greedy actions, (N,) or (N, A), of the algorithm that ``load`` makes of a zip."""
    model = kind.load(io.BytesIO(data), device="cpu")
    return lambda obs: np.asarray(model.predict(native(obs), deterministic=True)[0])


class OwnSpaces(NamedTuple):
    """The spaces of a task's environment, and the function from Graft's observations (N, *obs_shape) to its own."""

    observation: gym.Space[Any]
    action: gym.Space[Any]
    native: Native


def own_spaces(task: Task, schemas: Schemas) -> OwnSpaces:
    """Those of Gymnasium's environment, which the library compares when it loads; of other tasks those of the schemas.

    Raises:
        GraftError: a task that cannot be made, or whose environment shows or takes something else than the network: the
            zip would not load beside it, or would play other actions.
    """
    if not isinstance(adapter_for(task.id), GymnasiumAdapter):
        return OwnSpaces(schemas.observation.space(), schemas.action.space(), lambda obs: obs)
    shown = task_schemas(task)
    if (shown.observation.names, shown.action.names) != (schemas.observation.names, schemas.action.names):
        raise GraftError(f"This agent has other observations or actions than {task}, so that no zip fits; {HINT}")
    with closing(_environment(task)) as env:
        observation, action = env.observation_space, env.action_space
    if is_image_space(observation) and not is_image_space_channels_first(cast(gym.spaces.Box, observation)):
        observation = VecTransposeImage.transpose_space(cast(gym.spaces.Box, observation))  # as the library wraps it
    native = _native(observation, schemas.observation)
    if native is None:
        raise GraftError(
            f"{task} shows {observation}, which Graft encodes and Stable-Baselines3 reads as it is, so that no zip "
            f"fits; {HINT}"
        )
    if not _as_they_are(action, schemas.action):
        raise GraftError(f"{task} takes {action}, and this agent's actions are numbered otherwise; {HINT}")
    return OwnSpaces(observation, action, native)


def _environment(task: Task) -> gym.Env[Any, Any]:
    """What a user of the library plays: Gymnasium's environment, in the task's wrappers, without Graft's encoding."""
    kwargs = split_names(task)[0].kwargs
    wrappers = find_wrappers(kwargs.get(WRAPPERS, []), task.id)
    kwargs = {name: value for name, value in kwargs.items() if name != WRAPPERS}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is out of date")
        try:
            env = gym.make(task.id, disable_env_checker=True, **kwargs)
        except Exception:  # of keywords that only Graft knows, such as mechanics, which leave the spaces as they are
            env = gym.make(task.id, disable_env_checker=True)
    for wrapper in wrappers:
        env = wrapper.around(env, task.id)
    return env


def _native(space: gym.Space[Any], schema: ObservationSchema) -> Native | None:
    """From observations of the schema to those of a space that the library encodes alike; None of other spaces."""
    if isinstance(space, gym.spaces.Discrete) and space.start == 0 and schema.shape == (space.n,):
        return lambda obs: obs.argmax(1)
    if isinstance(space, gym.spaces.MultiDiscrete) and _from_zero(space) and schema.shape == (space.nvec.sum(),):
        ends = np.cumsum(space.nvec)[:-1]
        return lambda obs: np.stack([part.argmax(1) for part in np.split(obs, ends, 1)], 1)
    flat = isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary) and schema.kind == "vector"
    picture = schema.kind == "pixels" and is_image_space(space)
    return (lambda obs: obs) if (flat or picture) and space.shape == schema.shape else None


def _as_they_are(space: gym.Space[Any], schema: ActionSchema) -> bool:
    """Whether actions of the schema are those of the space."""
    if isinstance(space, gym.spaces.Discrete):
        return schema.kind == "discrete" and bool(space.start == 0 and space.n == len(schema.names))
    if isinstance(space, gym.spaces.MultiDiscrete):
        return schema.kind == "multi" and _from_zero(space) and tuple(space.nvec.tolist()) == schema.sizes
    if not isinstance(space, gym.spaces.Box) or schema.kind != "box" or space.shape != (len(schema.names),):
        return False
    ends = ((space.low, schema.low), (space.high, schema.high))
    return all(np.array_equal(own.astype(np.float32), np.array(given, np.float32)) for own, given in ends)


def _from_zero(space: gym.spaces.MultiDiscrete) -> bool:
    return space.nvec.ndim == 1 and not space.start.any()


def check_fit(network: PolicyNetwork) -> None:
    """Raise GraftError for a network that the library's policies cannot hold."""
    if network.config.kind != "plain" or not isinstance(network.encoder, MLP | NatureCNN):
        what = network.config.encoder if network.config.kind == "plain" else f"{network.config.kind} network"
        raise GraftError(
            f"Stable-Baselines3's policies cannot hold this agent's {what}, only mlp and nature_cnn; {HINT}"
        )
    if network.masked:
        raise GraftError(f"Stable-Baselines3 has no action masks, which this agent was trained with; {HINT}")
    if isinstance(network.encoder, NatureCNN) and _kinds(network.encoder) != {nn.ReLU}:
        raise GraftError(f"Stable-Baselines3's NatureCNN has ReLU, this agent's has another activation; {HINT}")
    _activation(network)


def _activation(network: PolicyNetwork) -> type[nn.Module]:
    """The only activation of a network, beside that of convolutions; raises GraftError where it has several."""
    kinds = _kinds(network.policy.hidden) | _kinds(network.value.hidden)
    if not isinstance(network.encoder, NatureCNN):
        kinds |= _kinds(network.encoder)
    elif not kinds:
        return nn.ReLU
    if len(kinds) != 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise GraftError(f"Stable-Baselines3's policies have one activation, this agent has {names}; use --to onnx.")
    return kinds.pop()


def _kinds(module: nn.Module) -> set[type[nn.Module]]:
    """Of activations."""
    return {type(m) for m in module.modules() if type(m).__module__ == nn.ReLU.__module__}


def _layers(module: nn.Module) -> Layers:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _encoder_layers(network: PolicyNetwork) -> Layers:
    """Those of the encoder that the library has among its heads' layers: all of `mlp`, none of `nature_cnn`."""
    return [] if isinstance(network.encoder, NatureCNN) else _layers(network.encoder)


def _tensors(network: PolicyNetwork, wanted: Mapping[str, torch.Tensor]) -> Tensors:
    """The network's numbers by the library's names; those that it has no numbers for stay."""
    encoder = _encoder_layers(network)
    found = _convolutions(network.encoder, wanted) if isinstance(network.encoder, NatureCNN) else {}
    chains: dict[str, Layers] = {"policy": _layers(network.policy.hidden), "value": _layers(network.value.hidden)}
    outs = {"policy": network.policy.out, "value": network.value.out}
    places = PLACES[network.config.distribution]
    for part, (hidden, last) in places.items():
        layers = [*encoder, *chains[part]]
        for number, layer in enumerate(layers):
            weight, bias = _first(network) if encoder and number == 0 else (layer.weight, layer.bias)
            found[f"{hidden}{2 * number}.weight"], found[f"{hidden}{2 * number}.bias"] = weight, bias
        last = last or f"{hidden}{2 * len(layers)}."
        found |= {f"{last}weight": outs[part].weight, f"{last}bias": outs[part].bias}
    if network.policy.spread is not None:
        spread = network.policy.spread
        found |= {"actor.log_std.weight": spread.weight, "actor.log_std.bias": spread.bias}
    elif network.policy.log_std is not None:
        units = from_units(network.schemas.action)
        found = {
            name: units.of_rows(name, tensor) if name.startswith("action_net.") else tensor
            for name, tensor in found.items()
        }
        found["log_std"] = units.of_log_std(network.policy.log_std)
    targets = {name.replace("q_net.", "q_net_target.", 1): t for name, t in found.items() if name.startswith("q_net.")}
    found = {name: tensor.detach().float().clone() for name, tensor in (found | targets).items()}
    return {**wanted, **found}


def _convolutions(encoder: NatureCNN, wanted: Mapping[str, torch.Tensor]) -> Tensors:
    """Of the library's NatureCNN wherever ``wanted`` has one, but in critics, which are fresh."""
    layers = [m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    names = ("cnn.0.", "cnn.2.", "cnn.4.", "linear.0.")
    own = {f"{n}{k}": getattr(m, k) for n, m in zip(names, layers, strict=True) for k in ("weight", "bias")}
    found = {}
    for name in wanted:
        place, _, rest = name.partition("features_extractor.")
        if rest in own and not place.startswith("critic"):
            found[name] = own[rest]
    return found


@torch.no_grad()
def _first(network: PolicyNetwork) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and bias of the first layer on raw observations, with statistics and the scale of pixels inside."""
    layer = _layers(network.encoder)[0]
    weight, bias = layer.weight.double(), layer.bias.double()
    normaliser = next((m for m in network.encoder.modules() if isinstance(m, Normaliser)), None)
    if normaliser is not None:
        varies = normaliser.varied
        scale = torch.where(varies, (normaliser.running_var.double() + EPSILON).sqrt(), 1.0)
        known = (normaliser.running_count > 0) | ~varies
        gain = torch.where(known, 1 / scale, 1.0)
        bias = bias - weight @ torch.where(known, normaliser.running_mean / scale, 0.0)
        weight = weight * gain
    return (weight / network.encoder.highest).float(), bias.float()
