"""Options of algorithms that both backends share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graft.agents.networks.activation import OWN, Activation
from graft.agents.networks.policy_network import Distribution, NetworkConfig, PolicyNetwork, can_play, unbounded
from graft.envs.core.schema import Schemas
from graft.errors import GraftError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Options that every algorithm has.

    Attributes:
        num_envs: environments in the training batch. gamma: discount.
        reward_scale: multiplies the rewards that the algorithm sees, not reported returns.
    """

    distribution: ClassVar[Distribution | None] = None  # of actions, by the heads' outputs (see `Outputs`)
    activation: ClassVar[Activation | None] = None  # of networks for which none was chosen; None: each encoder's own

    num_envs: Count = 64
    gamma: Share = 0.99
    reward_scale: Positive = 1.0

    @property
    def keeps_transitions(self) -> bool:
        """Whether a checkpoint of its training holds transitions, and a transfer goes on with the source's."""
        return False

    def updates(self, budget: int) -> int | None:
        """Gradient steps in a training of ``budget`` env steps; None where that is not known."""
        return None

    @classmethod
    def siblings(cls) -> Mapping[str, type[Any]]:
        """The algorithms of its backend, by name."""
        return {}

    def check(self, schemas: Schemas) -> None:
        """Raise GraftError where the algorithm cannot play the task's actions."""
        if not can_play(self.distribution, schemas.action):
            siblings = self.siblings()
            name = next((n for n, kind in siblings.items() if kind is type(self)), type(self).__name__)
            fitting = [n for n, kind in siblings.items() if can_play(kind.distribution, schemas.action)]
            open_ended = unbounded(schemas.action)
            if self.distribution == "squashed" and open_ended:
                raise GraftError(
                    f"Algorithm '{name}' needs actions with finite bounds, and '{open_ended[0]}' has none; use "
                    f"{' or '.join(fitting)}, or a wrapper of your own that gives it bounds (`wrappers:`)."
                )
            needs = "discrete actions" if self.distribution == "greedy" else "box actions with finite bounds"
            raise GraftError(
                f"Algorithm '{name}' needs {needs}, and the task's are {schemas.action.kind} "
                f"({', '.join(schemas.action.names)}); allowed here: {', '.join(fitting)}."
            )

    def check_network(self, network: PolicyNetwork) -> None:
        """Raise GraftError where ``network`` has the action distribution of another algorithm."""
        self.check(network.schemas)
        if network.config.distribution != self.distribution:
            raise GraftError(
                f"The network's distribution is '{network.config.distribution or 'default'}', and "
                f"{type(self).__name__} plays '{self.distribution or 'default'}'; make the network from "
                f"architecture_for(algorithm, config)."
            )


def architecture_for(algorithm: Algorithm, config: NetworkConfig) -> NetworkConfig:
    """``config`` with the algorithm's action distribution, and its activation where none is chosen, to build its
    networks from.
    """
    activation = config.activation or algorithm.activation or OWN
    return replace(config, distribution=algorithm.distribution, activation=activation)


@dataclass(frozen=True, kw_only=True)
class PPOOptions(Algorithm):
    """Options of proximal policy optimisation (Schulman et al. 2017), for actions of every kind.

    Attributes:
        num_steps: steps of each environment per rollout. minibatch: states per gradient step.
        epochs: passes over each rollout. learning_rate: of Adam. gamma, gae_lambda: discounts.
        anneal_lr: whether the learning rate falls linearly to 0 over the training's budget, by the env steps taken
            before each rollout (Huang et al. 2022, detail 4 of 37).
        entropy: weight of the entropy bonus. clip: of the probability ratio. value: weight of the value loss.
        max_grad_norm: gradients are clipped to this norm.
    Raises:
        GraftError: a rollout of one state.
    """

    num_steps: Count = 32
    minibatch: Annotated[int, Field(ge=2)] = 256
    epochs: Count = 4
    learning_rate: Positive = 2e-3
    anneal_lr: bool = True
    gamma: Share = 0.97
    gae_lambda: Share = 0.95
    entropy: NotNegative = 0.01
    clip: Positive = 0.2
    value: NotNegative = 0.5
    max_grad_norm: Positive = 0.5

    def __post_init__(self) -> None:
        if self.num_steps * self.num_envs < 2:
            raise GraftError("num_steps * num_envs is 1; PPO needs rollouts of at least 2 states.")

    @property
    def states_per_update(self) -> int:
        """States of a whole minibatch."""
        return min(self.minibatch, self.num_steps * self.num_envs)

    def updates(self, budget: int) -> int:
        """Minibatches in a training of ``budget`` env steps, all epochs together."""
        states = self.num_steps * self.num_envs
        return -(-budget // states) * self.epochs * -(-states // self.states_per_update)


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(Algorithm):
    """Options of every algorithm that learns from a replay buffer.

    Attributes:
        learning_rate: of Adam. gamma: discount. batch: transitions per gradient step.
        buffer: transitions kept. tau: weight of the network in each update of its target.
        learning_starts: env steps before the first update, of uniformly random play; of the network's own where it came
            with its critics.
        train_freq: steps of each environment between updates.
        gradient_steps: per update; -1 for as many as env steps since the last one.
    Raises:
        GraftError: no gradient steps, or a buffer smaller than the batch of environments.
    """

    num_envs: Count = 8
    learning_rate: Positive = 3e-4
    buffer: Count = 100_000
    batch: Count = 256
    gamma: Share = 0.99
    tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    learning_starts: Annotated[int, Field(ge=0)] = 1000
    train_freq: Count = 1
    gradient_steps: Annotated[int, Field(ge=-1)] = -1

    def __post_init__(self) -> None:
        if self.gradient_steps == 0:
            raise GraftError("gradient_steps=0 is not allowed: give a number from 1, or -1 for one per env step.")
        if self.buffer < self.num_envs:
            raise GraftError(
                f"buffer={self.buffer} is not allowed: it must hold a step of all {self.num_envs} environments."
            )

    def updates(self, budget: int) -> int:
        """Updates in a training of ``budget`` env steps, from a network without critics of its own."""
        steps = self.num_envs * self.train_freq
        rounds = -(-budget // steps) - self.learning_starts // steps
        return max(0, rounds) * (steps if self.gradient_steps < 0 else self.gradient_steps)


@dataclass(frozen=True, kw_only=True)
class SACOptions(ReplayOptions):
    """Options of soft actor-critic (Haarnoja et al. 2018), for box actions with finite bounds.

    Attributes:
        entropy: coefficient of the entropy; ``auto`` learns it, towards an entropy of -1 per action.
        encoder: of the critics: ``separate``, a copy of the network's encoder *as the transfer made it* (with carried
            heads: that of the source's critics), trained by the critics' loss except where frozen; or ``shared``, the
            network's own, trained by the critics' loss only, as usual. A transfer method changes the gradients of the
            network and so of a shared encoder, but not those of the critics or a copy.
        critic: hidden units of each critic above the encoder.
    """

    distribution: ClassVar[Distribution | None] = "squashed"

    buffer: Count = 200_000
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    entropy: Literal["auto"] | NotNegative = "auto"
    encoder: Literal["separate", "shared"] = "separate"
    critic: tuple[Count, ...] = (256, 256)
