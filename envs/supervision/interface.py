"""What calls of a third-party environment have to return: Gymnasium's first observations, steps and rewards."""

from __future__ import annotations

import contextlib
import inspect
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from graft.envs.core.action_masks import KEYWORD, MASK
from graft.envs.supervision.restarts import EnvFailure
from graft.errors import GraftError

NUMBERS = frozenset((float, int, bool, np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_))
"""Types of rewards that need no conversion."""

_OLD_RESET = "its reset() returns the observation alone, as in Gym before 0.26; it has to return (observation, info)"
_CALLERS = (str(Path(__file__).parents[1]), gym.__path__[0])  # folders of what unpacks a step
_UNPACKED = re.compile(r"values to unpack \(expected 5")


UNSAID = f"its infos hold an {MASK}; say {KEYWORD}: true to play allowed actions only, or {KEYWORD}: false"
"""What is wrong where infos hold masks that nothing in the task speaks of."""


class WrongInterface(GraftError):
    """An environment that does not keep to Gymnasium's interface, so that to make it again would not help.

    Its text is a clause: "its reset() ...".
    """


def first_observation(env: Any, keywords: Mapping[str, Any]) -> Any:
    """The observation of ``env.reset(**keywords)``; raises WrongInterface for a reset of another form."""
    return first_pair(env, keywords)[0]


def first_pair(env: Any, keywords: Mapping[str, Any]) -> Any:
    """Observation and info of ``env.reset(**keywords)``; raises as `first_observation`."""
    try:
        found = env.reset(**keywords)
    except (TypeError, ValueError, KeyError, IndexError) as error:  # perhaps of a wrapper that expects the new form
        wrong = _reset_error(env, keywords)
        if wrong is None:
            raise
        raise wrong from error
    if not _is_pair(found):
        raise WrongInterface(_OLD_RESET)
    return found


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple | list) and len(found) == 2 and (found[1] is None or isinstance(found[1], Mapping))


def _reset_error(env: Any, keywords: Mapping[str, Any]) -> WrongInterface | None:
    """What is wrong with the reset of an environment whose wrappers failed; None where it has the right form."""
    reset = getattr(getattr(env, "unwrapped", env), "reset", None)
    with contextlib.suppress(Exception):
        parameters = inspect.signature(reset).parameters.values()  # type: ignore[arg-type]
        named = {p.name for p in parameters}
        missing = [name for name in keywords if name not in named]
        if missing and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return WrongInterface(
                f"its reset() takes no {' and no '.join(missing)}, as in Gym before 0.26; it has to be "
                f"reset(self, *, seed=None, options=None), and to return (observation, info)"
            )
        if not _is_pair(reset(**keywords)):  # type: ignore[misc]
            return WrongInterface(_OLD_RESET)
    return None


def step_error(error: BaseException) -> BaseException:
    """``error`` of a step, or what it means where the step returned another number of values than five."""
    if not isinstance(error, ValueError) or not _UNPACKED.search(str(error)):
        return error
    if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_CALLERS):
        return error  # a mistake within the environment
    got = re.search(r"got (\d+)", str(error))
    return WrongInterface(
        f"its step() returns {f'{got[1]} values' if got else 'more than five values'}"
        f"{', as in Gym before 0.26' if got and got[1] == '4' else ''}; it has to return "
        f"(observation, reward, terminated, truncated, info)"
    )


def scalar_reward(reward: Any, weights: Any = None) -> float:
    """A reward as a number: of an array of one, or the sum of several weighted by ``weights`` (n,).

    Raises:
        EnvFailure: what is no number. WrongInterface: several numbers, or another number than there are weights.
    """
    values = np.asarray(reward)
    if values.dtype.kind not in "biuf":
        with contextlib.suppress(TypeError, ValueError):
            if not isinstance(reward, str | bytes):
                return float(reward)
        raise EnvFailure("raised", f"the reward is a {type(reward).__name__}, not a number")
    if weights is not None:
        if values.size != len(weights):
            raise WrongInterface(
                f"its reward has {_counted(values.size)}, and reward_weights {_counted(len(weights))}; give one weight "
                f"for each"
            )
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.dot(values.ravel().astype(np.float64), weights))
    if values.size != 1:
        raise WrongInterface(
            f"its reward is {_counted(values.size)} (shape {values.shape}); give the task reward_weights, a list of "
            f"{values.size} whose weighted sum is the reward"
        )
    return float(values.reshape(()))


def _counted(count: int) -> str:
    return f"{count} number" if count == 1 else f"{count} numbers"
