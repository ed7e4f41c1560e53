"""Zip files of Stable-Baselines3: PPO, A2C, DQN, SAC, TD3, and of sb3-contrib TRPO, MaskablePPO, QR-DQN and TQC."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from graft.agents.importing.files import LARGEST_TEXT, Archive, load_torch, parse_json, plain_tensors, read_bytes
from graft.agents.importing.foreign import WHOLE, ForeignPolicy, Layer, layer_at, numbered, read_layers
from graft.agents.importing.sb3_data import check_actions, check_observations, check_policy, flag, observation_spaces
from graft.agents.importing.source import FORMATS, Format, Request
from graft.agents.networks.activation import Activation
from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError, some

CONVOLUTIONS = ((0, 4), (2, 2), (4, 1))
"""Index and stride of the convolutions of its NatureCNN."""

_NAMES: dict[str, Activation] = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "SiLU": "silu",
    "GELU": "gelu",
}


@FORMATS.register("sb3")
class StableBaselines3(Format):
    """A ``.zip`` of ``model.save``: JSON without its pickled entries, and ``policy.pth``."""

    def fits(self, request: Request) -> bool:
        return request.path.suffix == ".zip"

    def read(self, request: Request) -> ForeignPolicy:
        what = str(request.path)
        if request.names:
            raise GraftError(f"{what} says itself which tensor is what; leave out --names.")
        archive = Archive(read_bytes(request.path), what)
        if "policy.pth" not in archive.names or "data" not in archive.names:
            raise GraftError(f"{what} is not a file of Stable-Baselines3: it lacks 'data' or 'policy.pth'.")
        data = parse_json(archive.read("data", LARGEST_TEXT), f"'data' in {what}")
        if not isinstance(data, dict):
            raise GraftError(f"'data' in {what} is not what Stable-Baselines3 writes.")
        tensors = plain_tensors(load_torch(archive.read("policy.pth"), f"policy.pth in {what}"), "policy.pth")
        # Before its class, which is of a module of its own: that it has a memory is what the user needs to know.
        if any("lstm" in name for name in tensors):
            raise GraftError("The file's policy is recurrent (LSTM); networks of Graft have no memory.")
        check_policy(data)
        file = _File(tensors, data, request)
        version = (
            archive.read("_stable_baselines3_version", 100) if "_stable_baselines3_version" in archive.names else b""
        )
        return file.policy(
            {"library": "stable-baselines3", "version": version.decode("ascii", "replace").strip() or None},
            [name for name in archive.names if name.endswith(".pth") and name != "policy.pth"],
        )


class _File:
    """Finds the policy among the tensors; what is left must be of a kind that is known not to play."""

    def __init__(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any], request: Request) -> None:
        self.tensors, self.data, self.request = tensors, data, request
        self.actions: ActionSchema = request.schemas.action
        self.kwargs: Mapping[str, Any] = data["policy_kwargs"]
        self.spaces = observation_spaces(data)
        self.unused: dict[str, str] = {}

    def policy(self, origin: dict[str, Any], beside: Sequence[str]) -> ForeignPolicy:
        self.unused |= dict.fromkeys(beside, "state of the training, not read: an optimiser, or a temperature")
        check_observations(self.spaces, self.request.schemas.observation)
        note = check_actions(self.data.get("action_space"), self.actions)
        if "action_net.weight" in self.tensors:
            trpo = "cg_max_steps" in self.data
            masked = "maskable" in self.data["policy_class"]["__module__"]
            ppo = "MaskablePPO" if masked else "PPO"
            found, algorithm = self._actor_critic(), ppo if "clip_range" in self.data else "TRPO" if trpo else "A2C"
        elif any(name.startswith("q_net.") for name in self.tensors):
            found, algorithm = self._values("q_net", 1), "DQN"
        elif any(name.startswith("quantile_net.") for name in self.tensors):
            found, algorithm = self._values("quantile_net", None), "QRDQN"
        elif "actor.mu.weight" in self.tensors and "actor.log_std.weight" in self.tensors:
            found, algorithm = self._soft_actor(), "TQC" if "top_quantiles_to_drop_per_net" in self.data else "SAC"
        elif "actor.mu.0.weight" in self.tensors and "actor.log_std" not in self.tensors:
            plain = self.data.get("policy_delay") == 1 and self.data.get("target_noise_clip") == 0
            found, algorithm = self._deterministic_actor(), "DDPG" if plain else "TD3"  # also in the library
        elif "actor.log_std" in self.tensors:
            raise GraftError("The file's actor has generalised state-dependent exploration, which is not read.")
        else:
            raise GraftError(f"The file's policy is none of PPO, A2C, DQN, SAC or TD3; it has {some(self.tensors)}.")
        used = ForeignPolicy(**found).names()
        self._leave_twins(used)
        if strange := [name for name in self.tensors if name not in used and name not in self.unused]:
            raise GraftError(
                f"The file's policy has tensors of its own, beginning with {strange[0]!r}, so it is not one of "
                f"Stable-Baselines3's; save its state dict with torch.save and read that with --names."
            )
        steps = self.data.get("num_timesteps")
        origin |= {"algorithm": algorithm, "env_steps": steps if type(steps) is int else None, "note": note}
        return ForeignPolicy(**found, unused=self.unused, origin=origin, pixels=self._pixels())

    def _actor_critic(self) -> dict[str, Any]:
        activation = self._activation("tanh")
        extractors = self._extractors(("features_extractor", "pi_features_extractor"))
        trunk = read_layers(self.tensors, numbered(self.tensors, "mlp_extractor.shared_net"), activation, last=True)
        policy = self._tower("mlp_extractor.policy_net", "action_net", activation)
        value = self._tower("mlp_extractor.value_net", "value_net", activation)
        found: dict[str, Any] = {"policy": policy, "extractors": extractors, "trunk": trunk, "value": value}
        if self._own("vf_features_extractor"):
            found["value"] = ()
            self._leave(
                ("vf_features_extractor.", "mlp_extractor.value_net.", "value_net."),
                "the value has features of its own",
            )
        found["kind"] = "gaussian" if self.actions.kind == "box" else "categorical"
        log_std = self.tensors.get("log_std")
        if log_std is not None and log_std.shape == (len(self.actions.names),) and not self.data.get("use_sde"):
            found["log_std"] = ("log_std", log_std)
        elif log_std is not None:
            self.unused["log_std"] = "deviations that depend on the state (gSDE); means are exact"
            if flag(self.kwargs, "squash_output", False):
                found["kind"] = "squashed"
        return found

    def _values(self, name: str, quantiles: int | None) -> dict[str, Any]:
        layers = read_layers(self.tensors, numbered(self.tensors, f"{name}.{name}"), self._activation("relu"))
        if not layers:
            raise GraftError(f"The file has no layers {name}.{name}.*.")
        *hidden, last = layers
        count = len(self.actions.names)
        if (
            quantiles is None
        ):  # the value of an action is the mean of its quantiles, in rows that follow each other by quantile
            if last.outputs % count:
                raise GraftError(f"The file has {last.outputs} quantiles, which is no multiple of {count} actions.")
            last = last._replace(
                weight=last.weight.view(-1, count, last.weight.shape[1]).mean(0), bias=last.bias.view(-1, count).mean(0)
            )
        self._leave((f"{name}_target.",), "an earlier copy for training")
        extractors = self._extractors((f"{name}.features_extractor",))
        return {"kind": "greedy", "policy": (*hidden, last), "extractors": extractors}

    def _soft_actor(self) -> dict[str, Any]:
        activation = self._activation("relu")
        hidden = read_layers(self.tensors, numbered(self.tensors, "actor.latent_pi"), activation, last=True)
        self._leave_critics()
        return {
            "kind": "squashed",
            "policy": (*hidden, layer_at(self.tensors, "actor.mu", None)),
            "spread": layer_at(self.tensors, "actor.log_std", None),
            "extractors": self._extractors(("actor.features_extractor",)),
        }

    def _deterministic_actor(self) -> dict[str, Any]:
        layers = read_layers(self.tensors, numbered(self.tensors, "actor.mu"), self._activation("relu"))
        self._leave_critics()
        return {
            "kind": "squashed",
            "policy": layers,
            "extractors": self._extractors(("actor.features_extractor",)),
        }

    def _leave_critics(self) -> None:
        self._leave(("critic.", "critic_target."), "critics read observations and actions without an encoder")
        self._leave(("actor_target.",), "an earlier copy for training")

    def _leave(self, starts: tuple[str, ...], why: str) -> None:
        for name in self.tensors:
            if name.startswith(starts):
                self.unused.setdefault(name, why)

    def _leave_twins(self, used: Collection[str | None]) -> None:
        """A shared extractor's tensors are in the file two or three times; those not ``used`` must equal a used one."""
        places = ("features_extractor.", "pi_features_extractor.", "vf_features_extractor.")
        for name, tensor in self.tensors.items():
            own = next((place for place in places if name.startswith(place)), None)
            if own is None or name in used:
                continue
            twins = (place + name.removeprefix(own) for place in places)
            if any(twin in used and torch.equal(self.tensors[twin], tensor) for twin in twins):
                self.unused.setdefault(name, "the same tensor again")

    def _tower(self, hidden: str, last: str, activation: Activation) -> tuple[Layer, ...]:
        layers = read_layers(self.tensors, numbered(self.tensors, hidden), activation, last=True)
        return (*layers, layer_at(self.tensors, last, None))

    def _extractors(self, places: Sequence[str]) -> dict[str, tuple[Layer, ...]]:
        """The layers of the extractor at the first of ``places`` that has some, for each part of the observation, in
        the file's order.
        """
        place = next((p for p in places if any(name.startswith(f"{p}.") for name in self.tensors)), None)
        if WHOLE in self.spaces:
            return {WHOLE: () if place is None else self._nature(place)}
        return {
            part: self._nature(f"{place}.extractors.{part}")
            if any(name.startswith(f"{place}.extractors.{part}.") for name in self.tensors)
            else ()
            for part in self.spaces
        }

    def _nature(self, place: str) -> tuple[Layer, ...]:
        convolutions = [
            layer_at(self.tensors, f"{place}.cnn.{index}", "relu", stride) for index, stride in CONVOLUTIONS
        ]
        return (*convolutions, layer_at(self.tensors, f"{place}.linear.0", "relu"))

    def _own(self, place: str) -> bool:
        """Whether the extractor at ``place`` has other weights than the policy's."""
        for name, tensor in self.tensors.items():
            if name.startswith(f"{place}."):
                twins = (p + name.removeprefix(place) for p in ("pi_features_extractor", "features_extractor"))
                twin = next((self.tensors[twin] for twin in twins if twin in self.tensors), None)
                if twin is None or not torch.equal(tensor, twin):
                    return True
        return False

    def _activation(self, default: Activation) -> Activation:
        """Of the file's text, else the algorithm's default; of a class that is not known, as given."""
        named, given = str(self.kwargs.get("activation_fn", "")), self.request.activation
        match = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", named[:200])
        found = _NAMES.get(match[1]) if match else None if named else default
        if found is None and given is None:
            raise GraftError(
                f"The file's activation is {named[:80]!r}, which is not known; give --activation: "
                f"{', '.join(get_args(Activation))}."
            )
        if found is not None and given not in (None, found):
            raise GraftError(f"The file's activation is {found}; leave out --activation {given}.")
        return found or given or default

    def _pixels(self) -> float:
        return 255.0 if flag(self.kwargs, "normalize_images", True) else 1.0
