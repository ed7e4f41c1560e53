"""PolicyNetwork: encoder, policy head and value head, built from schemas; independent of the training backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

import torch
from numpy.typing import NDArray
from torch import nn

from graft.agents.networks.activation import HIDDEN_GAIN, OWN, Activation, check_activation, layer_gains, make
from graft.agents.networks.box_units import clipped, to_environment
from graft.agents.networks.encoder import Encoder, build_encoder, default_encoder, has_option
from graft.envs.core.registry import Registry
from graft.envs.core.schema import ActionSchema, Schemas
from graft.errors import GraftError, printable, shown

Distribution = Literal["squashed", "greedy"]  # how actions are drawn where not by default (see `Outputs`)
PREFIX_CHUNK = 1024  # observations per forward pass in `PolicyNetwork.whole_prefix`
LOG_STD_BOUNDS = (-20.0, 2.0)  # of a squashed Gaussian, as in Stable-Baselines3
NEVER = -1e8
"""Logit, or Q value, of an action that is forbidden: its probability is 0, and sums of squares stay finite."""


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a policy network.

    Attributes:
        encoder: registered name; None takes the one that fits the kind of observation.
        options: keyword options of the encoder.
        head: hidden units of the policy head and, separately, of the value head.
        kind: registered name of the network's class (`NETWORKS`).
        parts: JSON values that describe a network of another kind than ``plain``.
        distribution: of actions, where not the default one (`Outputs`).
        activation: in the heads, and in an encoder that has the option, unless ``options`` give it another; ``own`` is
            tanh in the heads and the encoder's default. None is not decided: the algorithm's, else ``own``.
    """

    encoder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[int, ...] = (64,)
    kind: str = "plain"
    parts: Mapping[str, Any] = field(default_factory=dict)
    distribution: Distribution | None = None
    activation: str | None = None

    @property
    def in_heads(self) -> Activation:
        """The activation in the heads."""
        return "tanh" if self.activation in (None, OWN) else cast(Activation, self.activation)

    def encoder_options(self, encoder: str) -> dict[str, Any]:
        """All options of an encoder of this name."""
        own = self.activation in (None, OWN) or not has_option(encoder, "activation")
        return dict(self.options) if own else {"activation": self.activation, **self.options}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; but for ``encoder``, ``options`` and ``head`` only those that are not the default."""
        data: dict[str, Any] = {"encoder": self.encoder, "options": dict(self.options), "head": list(self.head)}
        if self.kind != "plain":
            data |= {"kind": self.kind, "parts": dict(self.parts)}
        if self.activation not in (None, OWN):
            data["activation"] = self.activation
        return data if self.distribution is None else data | {"distribution": self.distribution}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkConfig:
        return cls(
            data["encoder"],
            dict(data["options"]),
            tuple(data["head"]),
            kind=data.get("kind", "plain"),
            parts=dict(data.get("parts", {})),
            distribution=data.get("distribution"),
            activation=data.get("activation", OWN),
        )


class Outputs(NamedTuple):
    """Outputs of the heads for N states, by the network's ``config.distribution``.

    None: ``action`` (N, A) are logits of a discrete action (of several choices, concatenated), or means of a box action
    with ``log_std`` (A,), in the policy's units (`box_units`): -1 and 1 are the bounds of an action that has both.
    ``squashed``: ``action`` (N, A) are means of a box action before a tanh, then scaled from [-1, 1] to the schema's
    bounds; ``log_std`` is (N, A).
    ``greedy``: ``action`` (N, A) are Q values of a discrete action; the largest is played.

    ``log_std`` is None for discrete actions. ``value`` (N,): the estimated return, not trained by algorithms with
    critics of their own.

    Where observations are masked, logits and Q values of forbidden actions are `NEVER`.
    """

    action: torch.Tensor
    log_std: torch.Tensor | None
    value: torch.Tensor

    def without(self, forbidden: torch.Tensor | None) -> Outputs:
        """The outputs without the actions that are ``forbidden`` (N, A); None forbids nothing."""
        return self if forbidden is None else self._replace(action=self.action.masked_fill(forbidden, NEVER))


def split_choices(logits: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Logits of each choice, (..., size); one choice where ``sizes`` is empty."""
    return torch.split(logits, list(sizes) or logits.shape[-1], -1)


class Unstable(RuntimeError):
    """Training diverged: a loss, gradient, weight or output is not finite.

    Attributes:
        env_steps: that the training had taken; None outside of one.
        batch: name -> array of the minibatch by which it diverged; empty where that is not known.
    """

    env_steps: int | None = None
    batch: Mapping[str, NDArray[Any]] = {}


def check_finite(outputs: Outputs) -> None:
    """Raise Unstable where no action can be drawn from ``outputs``."""
    finite = bool(outputs.action.isfinite().all())
    if outputs.log_std is not None:
        spread = outputs.log_std.exp()
        finite = finite and bool((spread.isfinite() & (spread > 0)).all())
    if not finite:
        raise Unstable("the policy's outputs are not finite numbers any more; a smaller learning rate may help")


def can_play(distribution: Distribution | None, actions: ActionSchema) -> bool:
    """Whether the distribution fits the actions; a squashed one needs finite bounds."""
    if distribution is None:
        return True
    if distribution == "greedy":
        return actions.kind == "discrete"
    return actions.kind == "box" and not unbounded(actions)


def unbounded(actions: ActionSchema) -> list[str]:
    """Names of the box actions that lack a bound on one side or both."""
    bounds = zip(actions.names, actions.low, actions.high, strict=False)  # others than a box have none
    return [name for name, low, high in bounds if not (math.isfinite(low) and math.isfinite(high))]


def _described(actions: ActionSchema) -> str:
    return f"{actions.kind} actions" + (" without bounds" if unbounded(actions) else "")


def unscale_actions(actions: torch.Tensor, schema: ActionSchema) -> torch.Tensor:
    """Box actions (N, A) from [-1, 1] to the schema's bounds."""
    low, high = torch.tensor(schema.low).to(actions), torch.tensor(schema.high).to(actions)
    return low + 0.5 * (actions + 1.0) * (high - low)


def mlp(inputs: int, hidden: tuple[int, ...], activation: Activation) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), make(activation)]
        inputs = width
    return nn.Sequential(*layers)


class PolicyHead(nn.Module):
    """Features -> action distribution parameters; the rows of ``out``, ``log_std`` and ``spread`` are the action names.

    ``spread`` is the second output layer of a squashed distribution: its log standard deviations.
    """

    def __init__(self, inputs: int, config: NetworkConfig, actions: ActionSchema) -> None:
        super().__init__()
        width = config.head[-1] if config.head else inputs
        self.hidden = mlp(inputs, config.head, config.in_heads)
        self.out = nn.Linear(width, len(actions.names))
        self.log_std: nn.Parameter | None = None
        self.spread: nn.Linear | None = None
        if config.distribution == "squashed":
            self.spread = nn.Linear(width, len(actions.names))
        elif actions.kind == "box":
            self.log_std = nn.Parameter(torch.zeros(len(actions.names)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, means or Q values, (N, A)."""
        return cast(torch.Tensor, self.out(self.hidden(features)))

    def distribution(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``action`` and ``log_std`` of `Outputs`."""
        if self.spread is None:
            return self(features), self.log_std
        hidden = self.hidden(features)
        return self.out(hidden), self.spread(hidden).clamp(*LOG_STD_BOUNDS)


class ValueHead(nn.Module):
    """Features -> estimated return."""

    def __init__(self, inputs: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = mlp(inputs, config.head, config.in_heads)
        self.out = nn.Linear(config.head[-1] if config.head else inputs, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Values, (N,)."""
        return cast(torch.Tensor, self.out(self.hidden(features)).squeeze(-1))


class PolicyNetwork(nn.Module):
    """The unit of transfer: parameters are named ``encoder.*``, ``policy.*`` and ``value.*`` and nothing else.

    Args:
        schemas: of the task it plays.
        config: architecture.
        seed: of the weights. Orthogonal with the gain of the activation that follows (`activation.gain`: sqrt(2) for
            tanh and ReLU), output layers 0.01 (policy) and 1 (value), biases zero, as in Stable-Baselines3; the
            caller's random state is left alone.
    Raises:
        GraftError: an encoder or a distribution that does not fit the schemas, or an unknown activation.
    """

    def __init__(self, schemas: Schemas, config: NetworkConfig, seed: int) -> None:
        super().__init__()
        if not can_play(config.distribution, schemas.action):
            raise GraftError(
                f"The distribution '{config.distribution}' cannot play {_described(schemas.action)}; squashed needs a "
                f"box with finite bounds, greedy a discrete action; the default plays both."
            )
        self.schemas = schemas
        name = config.encoder or default_encoder(schemas.observation)
        check_activation(config.activation or OWN)
        self.config = replace(
            config,
            encoder=name,
            options=dict(config.options),
            head=tuple(config.head),
            activation=config.activation or OWN,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the caller's GPU as well
            self.encoder: Encoder = build_encoder(name, schemas.observation, config.encoder_options(name))
            self.policy = PolicyHead(self.encoder.out_dim, self.config, schemas.action)
            self.value = ValueHead(self.encoder.out_dim, self.config)
            self._initialise()
        self._flags = schemas.flag_places

    def _initialise(self) -> None:
        gains = {**self.encoder.gains(), **layer_gains(self.policy), **layer_gains(self.value)}
        gains |= {layer: 0.01 for layer in (self.policy.out, self.policy.spread) if layer is not None}
        gains[self.value.out] = 1.0
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(module.weight, gains.get(module, HIDDEN_GAIN))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def heads(self, features: torch.Tensor) -> Outputs:
        """Both heads on features (N, F)."""
        return Outputs(*self.policy.distribution(features), self.value(features))

    @property
    def frozen_depth(self) -> int:
        """The largest depth whose `prefix` is not trained; a backend may compute it once per rollout."""
        return 0 if self.masked else self.encoder.still_blocks

    @property
    def masked(self) -> bool:
        """Whether observations say which actions are forbidden."""
        return bool(self.schemas.observation.flags)

    def split(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the encoder reads of raw observations, and which actions are forbidden, (N, A) booleans.

        Without masks: the observations themselves, and None.
        """
        if not self.masked:
            return obs, None
        seen = self.schemas.observation.plain
        size = math.prod(seen.shape)
        flags = torch.nn.functional.pad(obs[:, size:] > 0, (0, 1))  # the last one is of actions without a flag
        return obs[:, :size].reshape(-1, *seen.shape), flags[:, self._flags]

    def prefix(self, obs: torch.Tensor, depth: int) -> torch.Tensor:
        """Input of `suffix` from raw observations (N, *obs_shape), a tensor of N rows; at depth 0 these.

        The depth is at most `frozen_depth`.
        """
        return self.encoder.prefix(obs, depth)

    @torch.no_grad()
    def whole_prefix(self, obs: torch.Tensor, depth: int) -> torch.Tensor:
        """`prefix` of many observations in chunks, on the network's device; the result is on the device of ``obs``."""
        device = self.policy.out.weight.device
        return torch.cat([self.prefix(c.to(device), depth).to(obs.device) for c in torch.split(obs, PREFIX_CHUNK)])

    def suffix(self, hidden: torch.Tensor, depth: int) -> Outputs:
        """Both heads from the output of `prefix` at the same depth."""
        if depth:
            return self.heads(self.encoder.suffix(hidden, depth))
        seen, forbidden = self.split(hidden)
        return self.heads(self.encoder.suffix(seen, 0)).without(forbidden)

    def forward(self, obs: torch.Tensor) -> Outputs:
        """Both heads on raw observations (N, *obs_shape)."""
        return self.suffix(obs, 0)

    @torch.no_grad()
    def act(
        self, obs: torch.Tensor | NDArray[Any], generator: torch.Generator | None, deterministic: bool = False
    ) -> torch.Tensor:
        """Actions for raw observations: (N,) indices, (N, M) indices of M choices at once, or (N, A) reals in bounds.

        Raises Unstable where training has diverged.
        """
        outputs: Outputs = self(torch.as_tensor(obs, device=self.policy.out.weight.device))
        return self.played(self.draw(outputs, generator, deterministic))

    @torch.no_grad()
    def draw(self, outputs: Outputs, generator: torch.Generator | None, deterministic: bool = False) -> torch.Tensor:
        """Actions from the distribution of ``outputs``, as `act`.

        Box actions of the default distribution are in the policy's units, and may be out of bounds.
        """
        check_finite(outputs)
        if outputs.log_std is None:
            sizes = self.schemas.action.sizes
            parts = split_choices(outputs.action, sizes)
            if deterministic or self.config.distribution == "greedy":
                chosen = [part.argmax(-1, keepdim=True) for part in parts]
            else:
                chosen = [torch.multinomial(part.softmax(-1), 1, generator=generator) for part in parts]
            return torch.cat(chosen, -1) if sizes else chosen[0].squeeze(-1)
        action = outputs.action
        if not deterministic:
            noise = torch.randn(action.shape, generator=generator, device=action.device)
            action = action + noise * outputs.log_std.exp()
        if self.config.distribution == "squashed":
            action = unscale_actions(action.tanh(), self.schemas.action)
        return action

    def played(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions of `draw` as the environment takes them: box actions are scaled to the bounds, and clipped."""
        if self.schemas.action.kind != "box":
            return actions
        # A squashed distribution draws in the environment's numbers.
        convert = clipped if self.config.distribution == "squashed" else to_environment
        return convert(actions, self.schemas.action)

    def load_exactly(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load all parameters and buffers; raises GraftError that names what is missing, extra or misshapen."""
        own = self.state_dict()
        missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        misshapen = [n for n in sorted(own.keys() & tensors.keys()) if own[n].shape != tensors[n].shape]
        if missing or extra or misshapen:
            raise GraftError(
                f"The tensors do not fit the network: missing {missing}, unexpected {extra}, other shape {misshapen}."
            )
        self.load_state_dict(dict(tensors))


NETWORKS: Registry[type[PolicyNetwork]] = Registry("network", "graft.agents.networks", PolicyNetwork)
NETWORKS.add("plain", PolicyNetwork)


def build_network(schemas: Schemas, config: NetworkConfig, seed: int) -> PolicyNetwork:
    """A fresh network of the kind that ``config`` names; arguments as of `PolicyNetwork`.

    Raises GraftError where it cannot be built with these options, such as numbers that are too large for the memory.
    """
    try:
        return NETWORKS[config.kind](schemas, config, seed)
    except GraftError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        if not config.options and config.head == NetworkConfig.head and config.kind == NetworkConfig.kind:
            raise  # no option is to blame
        reason = printable(" ".join(str(error).split()), 200)
        options = shown({**config.options, "head": list(config.head)})
        raise GraftError(f"A network cannot be built with the options {options}: {reason}.") from error
