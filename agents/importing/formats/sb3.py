"""Zip files of Stable-Baselines3: PPO, A2C, DQN, SAC, TD3, and of sb3-contrib TRPO, MaskablePPO, QR-DQN and TQC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from graft.agents.importing.files import LARGEST_TEXT, Archive, load_torch, parse_json, plain_tensors, read_bytes
from graft.agents.importing.foreign import WHOLE, ForeignPolicy, Layer, layer_at, parts_of, read_layers
from graft.agents.importing.source import FORMATS, Format, Request
from graft.agents.networks.activation import Activation
from graft.envs.core.schema import ActionSchema
from graft.errors import GraftError

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
        archive = Archive(read_bytes(request.path), what)
        if "policy.pth" not in archive.names or "data" not in archive.names:
            raise GraftError(f"{what} is not a file of Stable-Baselines3: it lacks 'data' or 'policy.pth'.")
        data = parse_json(archive.read("data", LARGEST_TEXT), f"'data' in {what}")
        if not isinstance(data, dict):
            raise GraftError(f"'data' in {what} is not what Stable-Baselines3 writes.")
        tensors = plain_tensors(load_torch(archive.read("policy.pth"), f"policy.pth in {what}"), "policy.pth")
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
        kwargs = data.get("policy_kwargs")
        self.kwargs: Mapping[str, Any] = kwargs if isinstance(kwargs, dict) else {}
        self.unused: dict[str, str] = {}

    def policy(self, origin: dict[str, Any], beside: Sequence[str]) -> ForeignPolicy:
        if any("lstm" in name for name in self.tensors):
            raise GraftError("The file's policy is recurrent (LSTM); networks of Graft have no memory.")
        self.unused |= dict.fromkeys(beside, "state of the training, not read: an optimiser, or a temperature")
        self._check_bounds()
        if "action_net.weight" in self.tensors:
            found, algorithm = self._actor_critic(), _on_policy(self.data)
        elif any(name.startswith("q_net.") for name in self.tensors):
            found, algorithm = self._values("q_net", 1), "DQN"
        elif any(name.startswith("quantile_net.") for name in self.tensors):
            found, algorithm = self._values("quantile_net", None), "QRDQN"
        elif "actor.mu.weight" in self.tensors and "actor.log_std.weight" in self.tensors:
            found, algorithm = self._soft_actor(), "TQC" if "top_quantiles_to_drop_per_net" in self.data else "SAC"
        elif "actor.mu.0.weight" in self.tensors and "actor.log_std" not in self.tensors:
            found, algorithm = self._deterministic_actor(), "TD3"
        elif "actor.log_std" in self.tensors:
            raise GraftError("The file's actor has generalised state-dependent exploration, which is not read.")
        else:
            raise GraftError(
                f"The file's policy is none of PPO, A2C, DQN, SAC or TD3; its tensors are "
                f"{', '.join(list(self.tensors)[:8])} ..."
            )
        used = {name for layer in ForeignPolicy(**found).layers() for name in layer.names}
        used |= {found["log_std"][0]} if found.get("log_std") else set()
        if strange := [name for name in self.tensors if name not in used and name not in self.unused]:
            raise GraftError(
                f"The file's policy has tensors of its own, beginning with {strange[0]!r}, so it is not one of "
                f"Stable-Baselines3's; its state dict can be read with names (--names)."
            )
        origin |= {"algorithm": algorithm, "env_steps": self.data.get("num_timesteps")}
        return ForeignPolicy(**found, unused=self.unused, origin=origin, pixels=self._pixels())

    def _actor_critic(self) -> dict[str, Any]:
        activation = self._activation("tanh")
        extractors = self._extractors(("features_extractor", "pi_features_extractor"))
        trunk = read_layers(self.tensors, self._indices("mlp_extractor.shared_net"), activation, last=True)
        policy = self._tower("mlp_extractor.policy_net", "action_net", activation)
        value = self._tower("mlp_extractor.value_net", "value_net", activation)
        found: dict[str, Any] = {"policy": policy, "extractors": extractors, "trunk": trunk, "value": value}
        if self._own("vf_features_extractor", extractors):
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
            if self.kwargs.get("squash_output"):
                found["kind"] = "squashed"
        self._leave(
            ("features_extractor.", "pi_features_extractor.", "vf_features_extractor."), "the same tensor again"
        )
        return found

    def _values(self, name: str, quantiles: int | None) -> dict[str, Any]:
        layers = read_layers(self.tensors, self._indices(f"{name}.{name}"), self._activation("relu"))
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
        hidden = read_layers(self.tensors, self._indices("actor.latent_pi"), activation, last=True)
        self._leave_critics()
        return {
            "kind": "squashed",
            "policy": (*hidden, layer_at(self.tensors, "actor.mu", None)),
            "spread": layer_at(self.tensors, "actor.log_std", None),
            "extractors": self._extractors(("actor.features_extractor",)),
        }

    def _deterministic_actor(self) -> dict[str, Any]:
        layers = read_layers(self.tensors, self._indices("actor.mu"), self._activation("relu"))
        self._leave_critics()
        return {
            "kind": "squashed",
            "policy": layers,
            "extractors": self._extractors(("actor.features_extractor",)),
        }

    def _leave_critics(self) -> None:
        self._leave(("critic.", "critic_target."), "critics read observations and actions without an encoder")
        self._leave(("actor_target.",), "an earlier copy for training")

    def _tower(self, hidden: str, last: str, activation: Activation) -> tuple[Layer, ...]:
        layers = read_layers(self.tensors, self._indices(hidden), activation, last=True)
        return (*layers, layer_at(self.tensors, last, None))

    def _indices(self, place: str) -> list[str]:
        """Places of the layers of an ``nn.Sequential``, in order."""
        pattern = re.compile(re.escape(place) + r"\.(\d+)\.weight")
        numbers = sorted(int(match[1]) for name in self.tensors if (match := pattern.fullmatch(name)))
        return [f"{place}.{number}" for number in numbers]

    def _leave(self, starts: tuple[str, ...], why: str) -> None:
        for name in self.tensors:
            if name.startswith(starts):
                self.unused.setdefault(name, why)

    def _extractors(self, places: Sequence[str]) -> dict[str, tuple[Layer, ...]]:
        """The layers of the extractor at the first of ``places`` that has some, for each part of the observation."""
        parts = parts_of(self.request.schemas.observation)
        place = next((p for p in places if any(name.startswith(f"{p}.") for name in self.tensors)), None)
        if WHOLE in parts:
            return {WHOLE: () if place is None else self._nature(place)}
        order = _order_of_parts(self.data, list(parts))
        return {
            part: self._nature(f"{place}.extractors.{part}")
            if any(name.startswith(f"{place}.extractors.{part}.") for name in self.tensors)
            else ()
            for part in order
        }

    def _nature(self, place: str) -> tuple[Layer, ...]:
        convolutions = [
            layer_at(self.tensors, f"{place}.cnn.{index}", "relu", stride) for index, stride in CONVOLUTIONS
        ]
        return (*convolutions, layer_at(self.tensors, f"{place}.linear.0", "relu"))

    def _own(self, place: str, extractors: Mapping[str, tuple[Layer, ...]]) -> bool:
        """Whether the extractor at ``place`` has other weights than ``extractors``."""
        for name, tensor in self.tensors.items():
            if name.startswith(f"{place}."):
                twin = next(
                    (
                        t
                        for s in ("pi_features_extractor", "features_extractor")
                        if (t := self.tensors.get(s + name.removeprefix(place))) is not None
                    ),
                    None,
                )
                if twin is None or not torch.equal(tensor, twin):
                    return True
        return False

    def _activation(self, default: Activation) -> Activation:
        """As given, else of the file's text, else the algorithm's default."""
        if self.request.activation is not None:
            return self.request.activation
        named = self.kwargs.get("activation_fn")
        if named is None:
            return default
        word = re.sub(r"\W+$", "", str(named)).rpartition(".")[2]
        if word not in _NAMES:
            raise GraftError(
                f"The file's activation is {str(named)[:80]!r}, which is not known; give --activation: "
                f"{', '.join(get_args(Activation))}."
            )
        return _NAMES[word]

    def _pixels(self) -> float:
        return 1.0 if self.kwargs.get("normalize_images") is False else 255.0

    def _check_bounds(self) -> None:
        """Raise GraftError where the file says that box actions have other bounds than the task's."""
        space = self.data.get("action_space")
        for key, own in (("low_repr", self.actions.low), ("high_repr", self.actions.high)):
            said = space.get(key) if isinstance(space, dict) else None
            if self.actions.kind != "box" or not isinstance(said, str):
                continue
            try:
                numbers = [float(number) for number in said.strip("[] \n").split()]
            except ValueError:
                continue
            numbers = numbers * len(own) if len(numbers) == 1 else numbers
            if len(numbers) != len(own) or any(
                abs(a - b) > 1e-4 * max(1.0, abs(b)) for a, b in zip(numbers, own, strict=True)
            ):
                raise GraftError(
                    f"The file's agent plays actions with the bounds {key.removesuffix('_repr')}={said}, the task has "
                    f"{list(own)}."
                )


def _on_policy(data: Mapping[str, Any]) -> str:
    if "clip_range" in data:
        return "PPO"
    return "TRPO" if "cg_max_steps" in data else "A2C"


def _order_of_parts(data: Mapping[str, Any], parts: list[str]) -> list[str]:
    """Parts in the order of the file's observation space; sorted, as Gymnasium does, where it is silent."""
    space = data.get("observation_space")
    text = space.get("spaces") if isinstance(space, dict) else None
    places = {part: str(text).find(f"'{part}':") for part in parts}
    return sorted(parts, key=places.__getitem__) if text and min(places.values()) >= 0 else sorted(parts)
