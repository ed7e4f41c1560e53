"""Critics, and the RLModule of a PolicyNetwork as an actor with critics, for SAC."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from ray.rllib.algorithms.sac.sac_learner import QF_PREDS, QF_TARGET_NEXT, QF_TWIN_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchSquashedGaussian
from ray.rllib.core.rl_module.apis import QNetAPI
from torch import nn

from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import check_finite, mlp
from graft.agents.rllib.module import TargetNetworkModule
from graft.agents.training.critics import without_gradients
from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError


class Critics(nn.Module):
    """Two estimates of the return of actions in [-1, 1], on features of one encoder.

    Args:
        shared: whether the encoder is the network's own. hidden: units of the layers above it.
    """

    def __init__(self, encoder: Encoder, shared: bool, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder, self.shared = encoder, shared
        self.heads = nn.ModuleList(_head(encoder.out_dim + actions, hidden) for _ in range(2))

    def features(self, obs: torch.Tensor) -> torch.Tensor:
        """Features (N, F) of raw observations."""
        return cast(torch.Tensor, self.encoder(obs))

    def forward(self, features: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both estimates (N,) from features (N, F) and actions (N, A)."""
        first, second = (head(torch.cat([features, actions], 1)).squeeze(1) for head in self.heads)
        return first, second

    def trained(self) -> list[nn.Parameter]:
        """What the critics' own optimiser trains: a shared encoder is stepped with the network."""
        return list((self.heads if self.shared else self).parameters())


def _head(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """A critic's layers, initialised as in Stable-Baselines3."""
    return nn.Sequential(*mlp(inputs, hidden, "relu"), nn.Linear((inputs, *hidden)[-1], 1))


def scale_actions(actions: torch.Tensor, schema: ActionSchema) -> torch.Tensor:
    """Box actions (N, A) from the schema's bounds to [-1, 1]; inverse of `unscale_actions`.

    An action that can have only one value becomes -1.
    """
    low, high = torch.tensor(schema.low).to(actions), torch.tensor(schema.high).to(actions)
    return 2.0 * (actions - low) / torch.where(high > low, high - low, 1.0) - 1.0


class SACModule(TargetNetworkModule, QNetAPI):
    """A network as the actor; in learners with critics and target critics.

    ``learner_config_dict`` has the arguments of `make_critics`.
    """

    critics: Critics

    def make_critics(self, shared: bool, hidden: tuple[int, ...], seed: int) -> None:
        """Make critics from a seed, on the network's encoder (``shared``) or a copy of it; only in learners."""
        encoder = self.network.encoder if shared else copy.deepcopy(self.network.encoder)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            made = Critics(encoder, shared, len(self.network.schemas.action.names), hidden)
        self.critics = made.to(next(self.network.parameters()).device)

    @property
    def online(self) -> nn.Module:
        return self.critics

    def follow_freezing(self) -> None:
        """Freeze and unfreeze the critics' encoder as the actor's is now."""
        if self.critics.encoder is not self.network.encoder:
            self.critics.encoder.copy_freezing(self.network.encoder)

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Copy buffers and frozen tensors to the target, as RLlib averages these as well, with a delay and rounding."""
        held = {name for name, parameter in self.critics.named_parameters() if parameter.requires_grad}
        theirs = self.target.state_dict()
        for name, tensor in self.critics.state_dict().items():
            if name not in held:
                theirs[name].copy_(tensor)

    def policy(self, obs: torch.Tensor) -> TorchSquashedGaussian:
        """The distribution of actions in [-1, 1] at raw observations.

        RLlib's own conversion limits deviations to at least exp(-5), the network does not.
        """
        outputs = self.network(obs)
        check_finite(outputs)
        if outputs.log_std is None:
            raise GraftError(f"A network of kind '{self.network.config.kind}' has no squashed policy, which SAC needs.")
        return TorchSquashedGaussian(loc=outputs.action, scale=outputs.log_std.exp())

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """What RLlib's loss reads, by its names."""
        obs, after = batch[Columns.OBS], batch[Columns.NEXT_OBS]
        with without_gradients(self.network.encoder) if self.critics.shared else nullcontext():
            drawn, logp = self.policy(obs).rsample_and_logp()
        with torch.no_grad():
            drawn_after, logp_after = self.policy(after).sample_and_logp()
            value_after = torch.minimum(*self.target(self.target.features(after), drawn_after))
        features = self.critics.features(obs)
        first, second = self.critics(features, scale_actions(batch[Columns.ACTIONS], self.network.schemas.action))
        # The actor's loss passes through the critics and must leave no gradient in them.
        self.critics.heads.requires_grad_(False)
        value = torch.minimum(*self.critics(features.detach(), drawn))
        self.critics.heads.requires_grad_(True)
        return {
            QF_PREDS: first,
            QF_TWIN_PREDS: second,
            QF_TARGET_NEXT: value_after,
            "q_curr": value,
            "logp_resampled": logp,
            "logp_next_resampled": logp_after,
        }

    @torch.no_grad()
    def compute_q_values(self, batch: Mapping[str, Any]) -> torch.Tensor:  # type: ignore[override]
        """The smaller of both estimates (N,) of observations and actions."""
        actions = scale_actions(batch[Columns.ACTIONS], self.network.schemas.action)
        return torch.minimum(*self.critics(self.critics.features(batch[Columns.OBS]), actions))

    @torch.no_grad()
    def forward_target(self, batch: Mapping[str, Any]) -> torch.Tensor:  # type: ignore[override]
        """`compute_q_values` by the target."""
        actions = scale_actions(batch[Columns.ACTIONS], self.network.schemas.action)
        return torch.minimum(*self.target(self.target.features(batch[Columns.OBS]), actions))
