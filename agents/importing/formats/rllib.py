"""Checkpoints of RLlib's new stack: PPO with fully connected networks; pickles, so only with ``--trust``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from graft.agents.importing.files import LARGEST_TEXT, parse_json, read_bytes
from graft.agents.importing.foreign import ForeignPolicy, Layer, Units, numbered, read_layers
from graft.agents.importing.source import FORMATS, Format, Request
from graft.agents.importing.trusted import read_trusted
from graft.agents.networks.activation import Activation
from graft.errors import GraftError, some, unknown

MODULES = ("learner_group/learner/rl_module/default_policy", "rl_module/default_policy", "default_policy", ".")
"""Where a checkpoint has the module, which may be given itself."""

KEYS = ("module", "units", "observations")

HARMLESS = {
    "env_to_module_connector": (
        "AddObservationsFromEpisodesToBatch",
        "AddTimeDimToBatchAndZeroPad",
        "AddStatesFromEpisodesToBatch",
        "AgentToModuleMapping",
        "BatchIndividualItems",
        "NumpyToTensor",
    ),
    "module_to_env_connector": (
        "GetActions",
        "TensorToNumpy",
        "UnBatchToIndividualItems",
        "ModuleToAgentUnmapping",
        "RemoveSingleTsTimeRankFromBatch",
        "NormalizeAndClipActions",
        "ListifyDataForVectorEnv",
    ),
}
"""Connectors that leave the numbers of observations as they are, and of actions but for the one that scales."""

STATE = "module_state.pkl"


@FORMATS.register("rllib")
class RLlib(Format):
    """The folder that ``algorithm.save`` wrote, or that of a module in it.

    ``--names`` may hold ``module``, ``units`` and ``observations``, of which the last two say what the checkpoint does
    not: ``observations: environment`` that the module reads what the environment shows.
    """

    def fits(self, request: Request) -> bool:
        return request.path.is_dir()

    def read(self, request: Request) -> ForeignPolicy:
        request.words(KEYS)
        module = _module(request)
        if not request.trust:
            raise GraftError(
                f"{module / STATE} is a pickle, which can run any code; if you trust where it is from, --trust lets "
                f"RLlib read it in a process without network."
            )
        about = parse_json(read_bytes(module / "metadata.json", LARGEST_TEXT), "metadata.json")
        trusted = read_trusted("rllib", module, request.path, request.unconfined)
        version = about.get("ray_version") if isinstance(about, dict) else None
        origin = {"library": "rllib", "version": version, "algorithm": "PPO", "protection": trusted.protection}
        return _policy(trusted.tensors, trusted.said, request, origin)


def _module(request: Request) -> Path:
    """Folder of the module; raises GraftError where there is none."""
    named = request.names.get("module")
    places = MODULES if named is None else [m.replace("default_policy", str(named)) for m in MODULES[:3]]
    root = request.path.resolve()
    for place in places:
        folder = (root / place).resolve()
        if (folder / STATE).is_file() and folder.is_relative_to(root):
            return folder
    raise GraftError(f"{request.path} is no checkpoint of RLlib's new stack: it has no {places[0]}/{STATE}.")


def _policy(
    tensors: Mapping[str, Tensor], said: Mapping[str, Any], request: Request, origin: Mapping[str, Any]
) -> ForeignPolicy:
    if request.schemas.observation.plain.kind != "vector":
        raise GraftError("Of RLlib, modules that read a vector are read; the task shows something else.")
    units = _units(said, request)
    if not any(name.startswith("pi.") for name in tensors):
        raise GraftError(f"The module is not PPO's; it has {some(tensors)}.")
    activation, head = (_activation(said, request, key) for key in ("fcnet_activation", "head_fcnet_activation"))
    actions = request.schemas.action

    def layers(place: str, after: Activation, last: bool = True) -> tuple[Layer, ...]:
        return read_layers(tensors, numbered(tensors, f"{place}.net.mlp"), after, last)

    trunk, own = layers("encoder.encoder", activation), layers("encoder.actor_encoder", activation)
    policy = own + layers("pi", head, last=False)
    value = layers("encoder.critic_encoder", activation) + layers("vf", head, last=False)
    found: dict[str, Any] = {"unused": {}, "made": {}}
    free = next((name for name in tensors if name.startswith("pi.") and name.endswith("log_std")), None)
    if not policy or not (own or trunk):
        raise GraftError(f"The module has no layers that are known; it has {some(tensors)}.")
    last = policy[-1]
    if actions.kind == "box":
        count = len(actions.names)
        if free is not None:
            found["log_std"] = (free, tensors[free].flatten())
        elif last.outputs == 2 * count:
            # The second half of the rows: deviations that depend on the state, of which their biases are kept.
            policy = (*policy[:-1], last._replace(weight=last.weight[:count], bias=last.bias[:count]))
            found["log_std"] = (f"{last.names[1]} (second half)", last.bias[count:])
            found["unused"][f"{last.names[0]} (second half)"] = "deviations that depend on the state; biases are kept"
    used = {name for layer in (*trunk, *policy, *value) for name in layer.names} | {free}
    left = [name for name in tensors if name not in used]
    if strange := [name for name in left if not name.endswith("log_std_clip_param_const")]:
        raise GraftError(f"The module has tensors that are not read, beginning with {strange[0]!r}.")
    found["unused"] |= dict.fromkeys(left, "a bound of deviations, for training")
    return ForeignPolicy(
        kind="gaussian" if actions.kind == "box" else "categorical",
        policy=policy,
        value=value,
        trunk=trunk,
        units=units,
        origin=origin,
        **found,
    )


def _units(said: Mapping[str, Any], request: Request) -> Units:
    """Units of box actions, as the checkpoint's connectors have them, or as the user says.

    Raises GraftError for connectors that change observations or actions otherwise, or that the folder does not have.
    """
    given, observations = request.names.get("units"), request.names.get("observations")
    if given not in (None, *get_args(Units)):
        raise unknown("units", str(given), get_args(Units))
    if observations not in (None, "environment"):
        raise unknown("observations", str(observations), ("environment",))
    scaling: list[Mapping[str, Any]] = []
    box = request.schemas.action.kind == "box"
    for place, told in (("env_to_module_connector", observations), ("module_to_env_connector", given)):
        if told is not None or (place == "module_to_env_connector" and not box):
            continue
        key = "observations: environment" if place == "env_to_module_connector" else "units"
        pieces = said.get(place)
        if pieces is None:
            raise GraftError(
                f"The folder has no env_runner/{place}, which says what is done to numbers; say it by {key} in --names."
            )
        for name, arguments in pieces:
            module, _, word = str(name).rpartition(".")
            if not module.startswith("ray.rllib.connectors.") or word not in HARMLESS[place]:
                raise GraftError(
                    f"The checkpoint has the connector {word[:80]!r}, which is not read; where --normalise or nothing "
                    f"stands for it, say so by {key} in --names."
                )
            scaling += [arguments] if word == "NormalizeAndClipActions" else []
    if given is not None or not box:
        chosen: Units = given or "scaled"
        return chosen
    return _scaled(scaling, request)


def _scaled(scaling: list[Mapping[str, Any]], request: Request) -> Units:
    """RLlib plays -1 to 1 where all bounds are finite, unless ``normalize_actions=False``."""
    actions = request.schemas.action
    bounded = [math.isfinite(low) and math.isfinite(high) for low, high in zip(actions.low, actions.high, strict=True)]
    normalise, clip = (
        scaling[0].get(key) if len(scaling) == 1 else None for key in ("normalize_actions", "clip_actions")
    )
    if normalise is True and all(bounded):
        return "scaled"
    free = not any(map(math.isfinite, (*actions.low, *actions.high)))
    if (normalise is True and free) or (normalise is False and (clip is True or free)):
        return "environment"
    raise GraftError(
        f"The checkpoint plays actions with normalize_actions={normalise} and clip_actions={clip}, which with the "
        f"task's bounds is not read; units in --names says what to take: {', '.join(get_args(Units))}."
    )


def _activation(said: Mapping[str, Any], request: Request, key: str) -> Activation:
    """As the configuration says, which has None for no activation; RLlib's default where it is silent."""
    if request.activation is not None:
        return request.activation
    named = said.get(key, "tanh" if key == "fcnet_activation" else "relu")
    named = "silu" if named == "swish" else named
    if not isinstance(named, str):
        raise GraftError(f"The module's {key} is {named}; layers without an activation after them are not read.")
    if named not in get_args(Activation):
        raise unknown("activation", named[:80], get_args(Activation))
    chosen: Activation = named  # type: ignore[assignment]
    return chosen
