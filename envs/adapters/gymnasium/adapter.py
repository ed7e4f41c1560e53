"""Any Gymnasium id, including ``module:Id-v0`` of a user's own package, as a batch."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from numpy.typing import NDArray

from graft.envs.adapters.gymnasium.wrappers import Wrapper, find_wrappers
from graft.envs.adapters.joints import model_names
from graft.envs.adapters.masks import (
    MaskedCheck,
    MaskObservation,
    check_size,
    check_wanted,
    first_info_has_mask,
    names_mask,
    source_in,
    takes_masks,
)
from graft.envs.adapters.minigrid.adapter import ACTIONS as GRID_ACTIONS
from graft.envs.adapters.minigrid.adapter import minigrid_codecs
from graft.envs.adapters.minigrid.missions import KEYWORD as MISSION
from graft.envs.adapters.minigrid.missions import (
    MissionCheck,
    MissionObservation,
    is_grid,
    mission_observation,
    split_mission,
)
from graft.envs.adapters.minigrid.worlds import (
    WORLD_PARTS,
    image_beside_sentence,
    is_world,
    makes_world,
    symbolic_view,
)
from graft.envs.adapters.names import Names, known_names
from graft.envs.adapters.packages import (
    INSTALL,
    READY,
    gymnasium_counts,
    gymnasium_states,
    install_line,
    missing_package,
)
from graft.envs.adapters.parts import PartCheck, check_and_codec
from graft.envs.adapters.scores import known_bounds
from graft.envs.adapters.spaces import (
    ActionCodec,
    AdaptedVectorEnv,
    Array,
    ObservationCodec,
    action_codec,
    first_line,
    metadata_of,
    observation_codec,
)
from graft.envs.core.action_masks import KEYWORD as MASKS
from graft.envs.core.action_masks import split_masks
from graft.envs.core.faults import KEYWORD, Faults, split_rules
from graft.envs.core.keywords import unknown_keyword
from graft.envs.core.naming import with_names
from graft.envs.core.parts import modules_of
from graft.envs.core.rewards import WEIGHTS, split_weights
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Adapter, BatchOptions, Bounds, Task, TaskVectorEnv
from graft.envs.core.wrappers import WRAPPERS
from graft.envs.factory import ADAPTERS
from graft.envs.supervision.observation_check import ObservationCheck
from graft.envs.supervision.restarts import failure_of
from graft.envs.supervision.subprocesses import Bools
from graft.envs.supervision.supervised_batch import SingleEnv, SupervisedBatch
from graft.errors import GraftError, nearest, unknown

Wrap = Callable[[SingleEnv], SingleEnv]


class GymnasiumVectorEnv(AdaptedVectorEnv):
    """Gymnasium environments of a `SupervisedBatch`, which is closed with this; raises GraftError for other spaces."""

    def __init__(self, batch: SupervisedBatch, task: str, options: BatchOptions) -> None:
        self._batch = batch  # first of all: `close` runs even when the lines below fail
        first = batch.first
        check, observation, action = _codecs(first, task, batch.strict, options.channels)
        super().__init__(options, observation, action)
        batch.start(check)
        self.step_limit = _step_limit(first)
        self._waiting = np.zeros(self.num_envs, np.bool_)
        self._all = list(range(self.num_envs))
        self.render_mode = first.render_mode
        metadata = metadata_of(first)
        self.metadata |= {key: metadata[key] for key in ("render_modes", "render_fps") if key in metadata}

    @property
    def faults(self) -> Faults:
        return self._batch.faults

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        seeds, chosen = self._seeds(seed), self._chosen(options)
        passed_on = {key: value for key, value in (options or {}).items() if key != "reset_mask"} or None
        self._batch.reset(np.flatnonzero(chosen).tolist(), seeds, passed_on)
        self._waiting &= ~chosen
        return self._encode(self._batch.raw), {}

    def step(self, actions: Any) -> tuple[Array, NDArray[np.float64], Bools, Bools, dict[str, Any]]:
        playing = self._all if self._same_step else np.flatnonzero(~self._waiting).tolist()
        rewards, terminated, truncated = self._batch.step(playing, self._decode(np.asarray(actions)))
        ended = terminated | truncated
        if not self._same_step:
            self._batch.reset(np.flatnonzero(self._waiting).tolist())
            self._waiting = ended
            return self._encode(self._batch.raw), rewards, terminated, truncated, {}
        infos: dict[str, Any] = {}
        if ended.any():
            infos = {"final_obs": self._encode(self._batch.raw), "_final_obs": ended}
            self._batch.reset(np.flatnonzero(ended).tolist())
        return self._encode(self._batch.raw), rewards, terminated, truncated, infos

    def env_attribute(self, name: str) -> list[Any]:
        """The attribute ``name`` of every environment, from the outermost of its wrappers that has it."""
        return self._batch.attribute(name)

    def render(self) -> tuple[Any, ...]:
        return self._batch.render()

    def close_extras(self, **kwargs: Any) -> None:
        self._batch.close()


class GymnasiumAdapter(Adapter):
    """Every id that no other adapter claims."""

    prefix = ""
    renders = reads_channels = takes_wrappers = True
    construction_context: Callable[[], AbstractContextManager[Any]] = nullcontext

    def ids(self) -> Iterable[str]:
        """Ids registered with Gymnasium so far; a user's module registers its own when it is imported."""
        return sorted(gym.registry)

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        return GymnasiumVectorEnv(self.supervised(task, options), task.id, options)

    def supervised(
        self, task: Task, options: BatchOptions, wrap: Wrap | None = None, names: Iterable[str] = ()
    ) -> SupervisedBatch:
        """The environments of a batch, each in ``wrap``, whose keywords are ``names``; raises GraftError as `make`."""
        spec = _find(task.id)
        allowed, takes_others, creator = _keywords(spec, task)
        if not isinstance(getattr(creator, "metadata", {}), dict):  # gymnasium.make wants a dictionary or nothing
            spec = replace(spec, entry_point=partial(creator))
        grid = is_grid(task.id) or (makes_world(creator) and MISSION not in allowed)
        task, mission = split_mission(task) if grid else (task, None)
        names = (*names, MISSION) if grid else names
        rules, rest = split_rules(task.id, task.kwargs, allowed)
        weights, rest = split_weights(task.id, rest, allowed)
        wanted, rest = split_masks(task.id, rest, allowed)
        key = repr(sorted(rest.items()))
        wrappers = () if WRAPPERS in allowed else find_wrappers(rest.pop(WRAPPERS, []), task.id)
        task = Task(task.id, rest)
        unlisted = next((name for name in task.kwargs if name not in allowed), None)
        offered = {*allowed, KEYWORD, WEIGHTS, WRAPPERS, MASKS, *names}
        refusal = unknown_keyword(f"keyword of {task.id}", unlisted, offered) if unlisted else None
        if unlisted == "render_mode":
            refusal = GraftError(f"Task '{task.id}' cannot be drawn: it takes no render_mode.")
        if refusal and not takes_others:
            raise refusal
        make = partial(_make_one, self.construction_context, spec, task, refusal, wrappers, wrap, mission)
        batch = SupervisedBatch(make, options.num_envs, task.id, options.seed, rules, options.workers, weights)
        try:
            _add_masks(batch, task.id, wanted, (spec.entry_point, key), options.seed)
        except Exception:
            batch.close()
            raise
        return batch

    def modules(self, task: Task) -> tuple[str, ...]:
        """That of the environment's constructor."""
        return (getattr(_keywords(_find(task.id), task)[2], "__module__", ""),)

    def part_modules(self, task: Task) -> tuple[str, ...]:
        wrappers = find_wrappers(task.kwargs.get(WRAPPERS, []), task.id)
        return tuple(name for wrapper in wrappers for name in modules_of(wrapper.make))

    def bounds(self, task: Task) -> Bounds | None:
        wrappers = find_wrappers(task.kwargs.get(WRAPPERS, []), task.id)
        if not all(wrapper.keeps_rewards for wrapper in wrappers):
            return None
        return known_bounds(task.id.rpartition(":")[2], task.kwargs)

    def states(self) -> dict[str, str]:
        return gymnasium_states()

    def counts(self) -> dict[str, int]:
        return gymnasium_counts()


_OWN_IDS: dict[str, set[str]] = {}
"""Module that ids name -> what it registered when it was first imported here."""


def _find(task_id: str) -> EnvSpec:
    module, _, name = task_id.rpartition(":")
    if module:
        _import_module(module, task_id)
    if name in gym.registry:
        return gym.registry[name]
    if module:  # ids of others, which are registered as well, would be no help
        own = [i for i, spec in gym.registry.items() if i in _OWN_IDS[module] or _is_from(spec, module)]
        if not own:
            raise GraftError(f"Unknown task '{task_id}'; module '{module}' registers no environments with Gymnasium.")
        cutoff = 0.5 if nearest(name, own, LIKE_AN_ID) else 1.0
        raise unknown("task", task_id, [f"{module}:{i}" for i in own], cutoff=cutoff)
    missing = [part for part, state in gymnasium_states().items() if state != READY]
    hint = f" Not installed: {', '.join(missing)}; `{INSTALL}` brings them." if missing else ""
    known = {i for _, adapter in ADAPTERS.items() for i in adapter.ids()}
    if "/" not in name:  # a game of that name in another provider is another game
        known = {i for i in known if i.startswith("Graft/") or not re.search("[/:]", i)}
    if nearest(task_id, known, LIKE_AN_ID) is None:
        hint = f" Ids of other packages name the module that registers them: package:{name}.{hint}"
    raise GraftError(f"{unknown('task', task_id, known, cutoff=LIKE_AN_ID)}{hint}")


LIKE_AN_ID = 0.75
"""How alike ids are that are suggested for each other; endings such as -v0 make all of them alike."""


def _import_module(module: str, task_id: str) -> None:
    before = set(gym.registry)
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the code of a user's module raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and missing.partition(".")[0] != module.partition(".")[0]:
            raise missing_package(f"Module '{module}' of task '{task_id}'", error) from error
        line = install_line(module.partition(".")[0])
        raise GraftError(
            f"Module '{module}' of task '{task_id}' cannot be imported ({error}); install the package"
            f"{f' with `{line}`' if line else ''}, or put its folder on PYTHONPATH."
        ) from error
    _OWN_IDS.setdefault(module, set()).update(set(gym.registry) - before)


def _is_from(spec: EnvSpec, module: str) -> bool:
    """Whether an id's environment is defined in the package of ``module``."""
    entry = spec.entry_point
    place = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return re.split(r"[.:]", place)[0] == module.partition(".")[0]


def _keywords(spec: EnvSpec, task: Task) -> tuple[set[str], bool, Callable[..., Any]]:
    """Keywords of the environment's constructor, whether it takes others, and itself; raises GraftError without one."""
    try:
        entry = spec.entry_point
        creator: Callable[..., Any] | None = load_env_creator(entry) if isinstance(entry, str) else entry
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise missing_package(f"Task '{task.id}'", error) from error
    if creator is None:
        raise GraftError(f"Task '{task.id}' has only a vector entry point; allowed: ids that gymnasium.make makes.")
    drawn, offered = task.kwargs.get("render_mode"), metadata_of(creator).get("render_modes")
    if drawn is not None and offered is not None and drawn not in offered:
        raise GraftError(f"Task '{task.id}' cannot be drawn as {drawn}; it offers: {', '.join(offered) or 'nothing'}.")
    parameters = inspect.signature(creator).parameters.values()
    takes = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    named, given = {p.name for p in takes}, {*spec.kwargs, *task.kwargs}
    if lacking := [p.name for p in takes if p.default is p.empty and p.name not in given]:
        raise GraftError(
            f"Task '{task.id}' needs {' and '.join(lacking)}; give kwargs: "
            f"{{{', '.join(f'{name}: ...' for name in lacking)}}}."
        )
    return named | {"max_episode_steps"}, any(p.kind is p.VAR_KEYWORD for p in parameters), creator


def _make_one(
    context: Callable[[], AbstractContextManager[Any]],
    spec: EnvSpec,
    task: Task,
    refusal: GraftError | None,
    wrappers: tuple[Wrapper, ...],
    wrap: Wrap | None,
    mission: bool | None,
) -> SingleEnv:
    """One environment; ``refusal`` is the error for a keyword that its constructor does not spell out."""
    with context():
        env = _make_plain(spec, task, refusal)
        for wrapper in wrappers:
            env = wrapper.around(env, task.id)
        if mission is not None and not is_world(env):
            raise unknown(f"keyword of {task.id}", MISSION, task.kwargs)
        env = mission_observation(env, task.id, mission) if is_world(env) else env
        return wrap(env) if wrap else env


def _make_plain(spec: EnvSpec, task: Task, refusal: GraftError | None) -> SingleEnv:
    with warnings.catch_warnings():
        # An old version is the user's choice: a source policy was trained on exactly that one.
        warnings.filterwarnings("ignore", message=".*is out of date")
        try:
            return gym.make(spec, disable_env_checker=True, **task.kwargs)
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise missing_package(f"Task '{task.id}'", error) from error
        except Exception as error:  # constructors refuse keywords in many ways
            if refusal and isinstance(error, TypeError):
                raise refusal from error
            if _fails_alike(spec, error, bool(task.kwargs)):
                raise GraftError(f"Task '{task.id}' cannot be made: {failure_of(error).text}.") from error
            given = ", ".join(f"{key}={value!r}" for key, value in task.kwargs.items())
            raise GraftError(f"Task '{task.id}' does not accept {given}: {first_line(error)}.") from error


_INFO_HAS_MASK: dict[tuple[Any, str], bool] = {}
"""Constructor and keywords of environments -> whether their infos hold masks, as `first_info_has_mask` found."""


def _add_masks(batch: SupervisedBatch, task_id: str, wanted: bool | None, key: tuple[Any, str], seed: int) -> None:
    """Have the environments show their action masks, where they have some; raises GraftError (`check_wanted`)."""
    env = batch.first

    def in_infos() -> bool:
        if not names_mask(env):
            return False
        if key not in _INFO_HAS_MASK:
            _INFO_HAS_MASK[key] = bool(batch.ask(partial(first_info_has_mask, seed=seed)))
        return _INFO_HAS_MASK[key]

    source = None if wanted is False else source_in(env, in_infos)
    if source is None and wanted and takes_masks(env.action_space):
        source = "info"
    check_wanted(task_id, wanted, source)
    if source is not None:
        batch.wrap(partial(MaskObservation, source=source))
    batch.masks_unsaid = source is None and wanted is None and takes_masks(env.action_space)


def _fails_alike(spec: EnvSpec, error: Exception, given: bool) -> bool:
    """Whether an environment fails as with ``error`` where no keywords are ``given``: then they are not at fault."""
    if not given:
        return True
    try:
        env: Any = gym.make(spec, disable_env_checker=True)
        env.close()
    except Exception as other:
        return type(other) is type(error) and str(other) == str(error)
    return False


def _step_limit(env: SingleEnv) -> int | None:
    with warnings.catch_warnings():
        # Wrappers copy the spec, and cannot where an argument cannot be copied.
        warnings.filterwarnings("ignore", message=".*while copying the environment spec")
        return getattr(env.spec or env.unwrapped.spec, "max_episode_steps", None)


def _codecs(
    env: SingleEnv, task_id: str, strict: bool, channels: Any
) -> tuple[ObservationCheck, ObservationCodec, ActionCodec]:
    """The check of single observations, and the codecs, with flags of forbidden actions where they are masked."""
    if not isinstance(env, MaskObservation):
        return _plain_codecs(env, task_id, strict, channels)
    part = env.source == "observation"
    check, shown, action = _plain_codecs(env if part else env.env, task_id, strict, channels)
    if part:
        check_size(task_id, env.env.observation_space, env.action_space)
    masked = MaskedCheck(check, shown, action.schema)
    return masked, masked.codec, action


def _plain_codecs(
    env: SingleEnv, task_id: str, strict: bool, channels: Any
) -> tuple[ObservationCheck, ObservationCodec, ActionCodec]:
    """The check of single observations, and the codecs; of dictionaries of MiniGrid's worlds the image is shown."""
    space: Any = env.observation_space
    if is_world(env) and (view := symbolic_view(env) or image_beside_sentence(env)) is not None:
        if others := sorted(set(space) - WORLD_PARTS if isinstance(space, gym.spaces.Dict) else ()):
            warnings.warn(
                f"Of worlds of MiniGrid the image and the mission are shown; what {task_id} has beside them is not: "
                f"{', '.join(others)}.",
                stacklevel=2,
            )
        if isinstance(env, MissionObservation):
            return MissionCheck(space, strict), *minigrid_codecs(task_id, view, env.action_space, mission=True)
        whole = not isinstance(space, gym.spaces.Dict)
        check = ObservationCheck(space, strict) if whole else PartCheck(space, "image", strict)
        if symbolic_view(env) is not None:
            return check, *minigrid_codecs(task_id, view, env.action_space)
        picture = observation_codec(task_id, view, channels=channels)
        return check, picture, action_codec(task_id, env.action_space, GRID_ACTIONS)
    names = env_names(env, task_id)
    actions, own = action_codec(task_id, env.action_space, names.action), own_attribute(env, "schemas")
    if isinstance(own, Schemas) and own.observation.space() == space:  # a built-in game's, in somebody's wrappers
        return ObservationCheck(space, strict), ObservationCodec(own.observation, np.copy), actions
    given = own_attribute(env, "observation_names")
    of_parts = {str(part): tuple(map(str, n)) for part, n in given.items()} if isinstance(given, Mapping) else {}
    check, shown = check_and_codec(task_id, space, strict, names.observation, of_parts, channels)
    if isinstance(given, list | tuple) and given and not any(str(given[0]) in _forms(n) for n in shown.schema.names):
        warnings.warn(
            f"observation_names of {task_id} are not used: it gives {len(given)}, and its observations have "
            f"{len(shown.schema.names)}, such as {shown.schema.names[0]}.",
            stacklevel=2,
        )
    return check, _with_attributes(shown, env), actions


def own_attribute(env: SingleEnv, name: str) -> Any:
    """What an author says about an environment, in the outermost wrapper that has it; None where nobody does."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _with_attributes(codec: ObservationCodec, env: SingleEnv) -> ObservationCodec:
    """``codec`` with what the environment's author says that names mean: ``observation_attributes``, name -> words.

    A name may leave out the part, the frame or the value.
    """
    words = own_attribute(env, "observation_attributes")
    if not isinstance(words, Mapping):
        return codec
    found = []
    for name, before in zip(codec.schema.names, codec.schema.attributes, strict=True):
        key = next((form for form in _forms(name) if form in words), None)
        said = words[key] if key is not None else before
        found.append((said,) if isinstance(said, str) else tuple(sorted(map(str, said))))
    return codec._replace(schema=with_names(codec.schema, codec.schema.names, tuple(found)))


def _forms(name: str) -> tuple[str, str, str]:
    """A name of an observation, then without its part and frame, then without its value."""
    short = re.sub(r"^frame_\d+:", "", name.rpartition("/")[2])
    return name, short, short.rpartition("=")[0]


def _grey_frames(env: SingleEnv) -> tuple[str, ...] | None:
    """Names of the channels of grey pictures that a wrapper stacks; else they would be taken for colours."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.FrameStackObservation) and len(env.env.observation_space.shape or ()) == 2:
            return tuple(f"frame_{i}" for i in range(env.stack_size))
        env = env.env
    return None


def env_names(env: SingleEnv, task_id: str) -> Names:
    """Names by the environment's author, or of `known_names`; else ALE's actions or MuJoCo's joints."""
    own = [own_attribute(env, name) for name in ("observation_names", "action_names")]
    given = [tuple(map(str, found)) if isinstance(found, list | tuple) else None for found in own]
    known = known_names(task_id.rpartition(":")[2], env.action_space)
    known = Names(given[0] or known.observation or _grey_frames(env), given[1] or known.action)
    if known.action is not None:
        return known
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if callable(meanings):
        return Names(known.observation, tuple(str(meaning).lower() for meaning in meanings()))
    robot = model_names(env.unwrapped)
    return Names(known.observation or robot.observation, robot.action)


ADAPTERS.add("gymnasium", GymnasiumAdapter())
