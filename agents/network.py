"""PolicyNetwork: encoder, policy head and value head, built from schemas; it knows no training backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn

from agents.encoder import Encoder, build_encoder, default_encoder
from envs.errors import GraftError
from envs.schema import ActionSchema, Schemas


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a policy network.

    Attributes:
        encoder: registered name; None takes the one that fits the kind of observation.
        options: keyword options of the encoder.
        head: hidden units of the policy head and, separately, of the value head.
    """

    encoder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[int, ...] = (64,)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"options": dict(self.options), "head": list(self.head)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkConfig:
        """Inverse of `to_json`."""
        return cls(data["encoder"], dict(data["options"]), tuple(data["head"]))


class Outputs(NamedTuple):
    """What the heads say about N states.

    ``action`` (N, A): logits of a discrete action, means of a box action. ``log_std`` (A,): of a box action, else
    None. ``value`` (N,): the estimated return.
    """

    action: torch.Tensor
    log_std: torch.Tensor | None
    value: torch.Tensor


class Unstable(RuntimeError):
    """Training diverged: what the policy gives is not finite any more."""


def check_finite(outputs: Outputs) -> None:
    """Raises Unstable where no action can be drawn from ``outputs`` any more."""
    finite = bool(outputs.action.isfinite().all())
    if outputs.log_std is not None:
        spread = outputs.log_std.exp()
        finite = finite and bool((spread.isfinite() & (spread > 0)).all())
    if not finite:
        raise Unstable("the policy's outputs are not finite numbers any more; a smaller learning rate may help")


def _mlp(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers)


class PolicyHead(nn.Module):
    """Features -> action distribution parameters; the rows of ``out`` (and of ``log_std``) are the action names."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], actions: ActionSchema) -> None:
        super().__init__()
        self.hidden = _mlp(inputs, hidden)
        self.out = nn.Linear(hidden[-1] if hidden else inputs, len(actions.names))
        self.log_std: nn.Parameter | None = None
        if actions.kind == "box":
            self.log_std = nn.Parameter(torch.zeros(len(actions.names)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits or means, (N, A)."""
        result: torch.Tensor = self.out(self.hidden(features))
        return result


class ValueHead(nn.Module):
    """Features -> estimated return."""

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden = _mlp(inputs, hidden)
        self.out = nn.Linear(hidden[-1] if hidden else inputs, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Values, (N,)."""
        result: torch.Tensor = self.out(self.hidden(features)).squeeze(-1)
        return result


class PolicyNetwork(nn.Module):
    """The unit of transfer: parameters are named ``encoder.*``, ``policy.*`` and ``value.*`` and nothing else.

    Args:
        schemas: of the task it plays.
        config: architecture.
        seed: of the weights. Orthogonal with gain sqrt(2), output layers 0.01 (policy) and 1 (value), biases zero,
            as in Stable-Baselines3; the caller's random state is left alone.
    """

    def __init__(self, schemas: Schemas, config: NetworkConfig, seed: int) -> None:
        super().__init__()
        self.schemas = schemas
        name = config.encoder or default_encoder(schemas.observation)
        self.config = NetworkConfig(name, dict(config.options), tuple(config.head))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the caller's GPU as well
            self.encoder: Encoder = build_encoder(name, schemas.observation, config.options)
            self.policy = PolicyHead(self.encoder.out_dim, self.config.head, schemas.action)
            self.value = ValueHead(self.encoder.out_dim, self.config.head)
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                gain = 0.01 if module is self.policy.out else 1.0 if module is self.value.out else 2**0.5
                nn.init.orthogonal_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def heads(self, features: torch.Tensor) -> Outputs:
        """Both heads on features (N, F)."""
        return Outputs(self.policy(features), self.policy.log_std, self.value(features))

    def forward(self, obs: torch.Tensor) -> Outputs:
        """Both heads on raw observations (N, *obs_shape)."""
        return self.heads(self.encoder(obs))

    @torch.no_grad()
    def act(
        self, obs: torch.Tensor | NDArray[Any], generator: torch.Generator | None, deterministic: bool = False
    ) -> torch.Tensor:
        """Actions for raw observations: (N,) indices, or (N, A) reals within the schema's bounds.

        Raises:
            Unstable: training has diverged.
        """
        outputs: Outputs = self(torch.as_tensor(obs, device=self.policy.out.weight.device))
        check_finite(outputs)
        if outputs.log_std is None:
            if deterministic:
                return outputs.action.argmax(-1)
            return torch.multinomial(outputs.action.softmax(-1), 1, generator=generator).squeeze(-1)
        action = outputs.action
        if not deterministic:
            noise = torch.randn(action.shape, generator=generator, device=action.device)
            action = action + noise * outputs.log_std.exp()
        bounds = self.schemas.action
        return action.clamp(torch.tensor(bounds.low).to(action), torch.tensor(bounds.high).to(action))

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
