"""Action masks of other people's environments: where they are, and observations with flags of forbidden actions."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from graft.envs.adapters.parts import part_of
from graft.envs.adapters.spaces import ActionCodec, ObservationCodec
from graft.envs.core.action_masks import KEYWORD, MASK, Shown, flags_of, forbids_all
from graft.envs.core.schema import ActionSchema, flag_names, masked
from graft.envs.supervision.observation_check import ObservationCheck
from graft.envs.supervision.restarts import EnvFailure, failure_of
from graft.errors import GraftError

Source = Literal["observation", "method", "info"]
"""Where masks are: a part ``action_mask`` of observations; a method ``action_masks()``; ``info["action_mask"]``."""

METHOD = "action_masks"
ALONE = ("observation", "observations")  # the only other part of a dictionary, which is then the whole observation


def takes_masks(space: Any) -> bool:
    """Whether actions of this space can be masked."""
    return isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)


def has_mask(space: Any) -> bool:
    """Whether observations of this space have a mask beside other parts."""
    return isinstance(space, gym.spaces.Dict) and MASK in space.spaces and len(space.spaces) > 1


def rest_of(space: Any) -> Any:
    """The space of observations without their mask."""
    others = {name: part for name, part in space.items() if name != MASK}
    return next(iter(others.values())) if len(others) == 1 and next(iter(others)) in ALONE else gym.spaces.Dict(others)


def without_mask(shown: Any, space: Any) -> Any:
    """An observation of ``rest_of`` that space; raises EnvFailure where a part is missing."""
    if len(space.spaces) == 2 and (name := next(n for n in space.spaces if n != MASK)) in ALONE:
        return part_of(shown, name)
    return {name: part_of(shown, name) for name in space.spaces if name != MASK}


def split_mask(shown: Any, space: Any, idle: bool) -> Shown:
    """An observation that has its mask as a part; what is missing is found when it is read."""
    try:
        mask = part_of(shown, MASK)
    except EnvFailure as failure:
        mask = failure
    return Shown(without_mask(shown, space), mask, idle)


def in_info(info: Any, idle: bool) -> Any:
    """The mask of an info, or what is wrong."""
    if isinstance(info, Mapping) and MASK in info:
        return info[MASK]
    return None if idle else EnvFailure("outside", f"its info has no {MASK}, which it had at first")


class MaskObservation(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose masks are shown: its observations are `Shown`, of the space ``observation_space``.

    Nothing is raised here for a faulty mask, so that the step's reward and flags count (`MaskedCheck`).
    """

    def __init__(self, env: gym.Env[Any, Any], source: Source) -> None:
        super().__init__(env)
        self.source, self._whole = source, env.observation_space
        self.observation_space = rest_of(self._whole) if source == "observation" else self._whole

    @property
    def observation_names(self) -> Any:
        """The author's, of the observation without its mask."""
        if not self.env.has_wrapper_attr("observation_names"):
            return None
        given = self.env.get_wrapper_attr("observation_names")
        if isinstance(given, Mapping) and not isinstance(self.observation_space, gym.spaces.Dict):
            return next((given[name] for name in ALONE if name in given), None)
        return given

    def reset(self, **keywords: Any) -> Any:
        found = self.env.reset(**keywords)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            return found  # of the old form, which is reported by who resets
        return self._shown(*found, False), found[1]

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(obs, info, bool(terminated or truncated)), reward, terminated, truncated, info

    def _shown(self, obs: Any, info: Any, idle: bool) -> Any:
        if self.source == "observation":
            try:
                return split_mask(obs, self._whole, idle)
            except EnvFailure as failure:
                return Shown(None, failure, idle)
        if self.source == "info":
            return Shown(obs, in_info(info, idle), idle)
        try:
            return Shown(obs, self.env.get_wrapper_attr(METHOD)(), idle)
        except Exception as error:  # of third-party code
            return Shown(obs, failure_of(error), idle)


class MaskedCheck(ObservationCheck):
    """Checks what a masked environment shows, and packs its observation and flags of forbidden actions into one array.

    Attributes:
        codec: of batches of the result.

    Args:
        inner, shown: check and codec of observations without their mask. actions: what the mask is about.
    """

    packs = True

    def __init__(self, inner: ObservationCheck, shown: ObservationCodec, actions: ActionSchema) -> None:
        self.codec = masked_codec(shown, actions, np.copy)
        super().__init__(self.codec.schema.space(), strict=False, clips=inner.clips)
        self._inner, self._encode, self._actions = inner, shown.encode, actions
        self.checks = False  # the inner one has

    def fitting(self, shown: Any) -> Any:
        """Raises EnvFailure for a mask of another form, or without an allowed action where one has to be chosen."""
        row = np.empty(self.shape, self.dtype)
        if shown.observation is None and isinstance(shown.mask, EnvFailure):
            raise shown.mask
        row[: -len(self._actions.names)] = self._encode(self._inner.read(shown.observation)[None]).ravel()
        row[-len(self._actions.names) :] = self._forbidden(shown.mask, shown.idle)
        return row

    def _forbidden(self, mask: Any, idle: bool) -> Any:
        try:
            if isinstance(mask, EnvFailure):
                raise mask
            forbidden = flags_of(mask, self._actions)
            if forbids_all(forbidden, self._actions):
                raise EnvFailure("outside", "its action mask allows no action")
            return forbidden
        except ValueError as error:
            if not idle:
                raise EnvFailure("outside", str(error)) from error
        except EnvFailure:
            if not idle:
                raise
        return 0


def masked_codec(shown: ObservationCodec, actions: ActionSchema, encode: Callable[[Any], Any]) -> ObservationCodec:
    """A codec of observations with flags, whose schema is that of ``shown`` with them."""
    return ObservationCodec(masked(shown.schema, flag_names(actions)), encode)


def pool_codec(space: Any, shown: ObservationCodec, action: ActionCodec) -> ObservationCodec:
    """The codec of batches of dictionaries with a part ``action_mask`` (N, A), of ``rest_of(space)`` in ``shown``.

    A mask without an allowed action, as at the end of an episode, forbids nothing.
    """

    def encode(raw: Any) -> Any:
        plain = shown.encode(without_mask(raw, space))
        flags = np.asarray(raw[MASK]).reshape(len(plain), -1) == 0
        flags &= ~flags.all(-1, keepdims=True)
        return np.concatenate([plain.reshape(len(plain), -1), flags], 1, dtype=plain.dtype)

    return masked_codec(shown, action.schema, encode)


def source_in(env: gym.Env[Any, Any], gives_info: Callable[[], bool]) -> Source | None:
    """Where an environment has its masks; None where it has none.

    ``gives_info`` is asked only if it has to be: whether infos hold masks.
    """
    if not takes_masks(env.action_space):
        return None
    if has_mask(env.observation_space):
        return "observation"
    if env.has_wrapper_attr(METHOD) and callable(env.get_wrapper_attr(METHOD)):
        return "method"
    return "info" if gives_info() else None


def names_mask(env: gym.Env[Any, Any]) -> bool:
    """Whether the code of an environment's class, or of a wrapper's, has the text ``action_mask``.

    That is why its infos are looked at; of others none is made only to look.
    """
    layers: list[Any] = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    kinds = {kind for layer in layers for kind in type(layer).__mro__}
    found = (getattr(member, "__code__", None) for kind in kinds for member in vars(kind).values())
    return any(code is not None and _has_text(code) for code in found)


def _has_text(code: CodeType) -> bool:
    return any(
        MASK in held if isinstance(held, tuple) else _has_text(held) if isinstance(held, CodeType) else held == MASK
        for held in code.co_consts
    )


def first_info_has_mask(make: Callable[[], Any], seed: int) -> bool:
    """Whether the info of a first reset has a mask, by an environment that is thrown away.

    Random numbers of Python and NumPy are left as they were, and what goes wrong is left to who plays.
    """
    states = random.getstate(), np.random.get_state()
    env = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = make()
            info = env.reset(seed=seed)[1]
            return isinstance(info, Mapping) and MASK in info
    except Exception:  # of third-party code
        return False
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if env is not None:
            _close(env)


def _close(env: Any) -> None:
    try:
        env.close()
    except Exception:  # of third-party code
        return


def check_wanted(task: str, wanted: bool | None, source: Source | None) -> None:
    """Raises GraftError where masks are asked for and there are none."""
    if wanted and source is None:
        raise GraftError(
            f"{KEYWORD}=true of {task}: it gives no masks of discrete actions; allowed are info['{MASK}'] of reset and "
            f"step, a method {METHOD}(), or observations that are a Dict with a part '{MASK}'."
        )


def check_size(task: str, space: Any, actions: Any) -> None:
    """Raises GraftError where the mask in a space of observations is not one of the space ``actions``."""
    count, needed = _count(space[MASK]), _number(actions)
    if count != needed:
        raise GraftError(
            f"'{task}' shows an {MASK} of {count} numbers, and has {needed} actions; give a flag for each, or leave "
            f"masks out with {KEYWORD}: false, which shows it as a part."
        )


def _number(actions: Any) -> int:
    if isinstance(actions, gym.spaces.Discrete):
        return int(actions.n)
    return int(actions.nvec.sum() if isinstance(actions, gym.spaces.MultiDiscrete) else 2 * np.prod(actions.shape))


def _count(space: Any) -> int:
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        return sum(map(_count, space.values() if isinstance(space, gym.spaces.Dict) else space))
    return int(np.prod(space.shape or ()))
