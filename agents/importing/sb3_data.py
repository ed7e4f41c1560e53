"""The JSON in a zip file of Stable-Baselines3: which of its classes the policy is of, and what its spaces are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from graft.agents.importing.foreign import WHOLE, parts_of
from graft.envs.core.schema import ActionSchema, ObservationSchema
from graft.errors import GraftError

POLICIES = frozenset(
    {f"stable_baselines3.{place}.policies" for place in ("common", "dqn", "sac", "td3")}
    | {f"sb3_contrib.{place}.policies" for place in ("common.maskable", "qrdqn", "tqc")}
)
"""Modules of the policies that are read. A class of somebody else's, derived or not, is in another."""

EXTRACTORS = frozenset({"FlattenExtractor", "NatureCNN", "CombinedExtractor"})

KWARGS = frozenset(
    {"net_arch", "activation_fn", "ortho_init", "use_sde", "log_std_init", "full_std", "use_expln", "squash_output"}
    | {"features_extractor_class", "features_extractor_kwargs", "share_features_extractor", "normalize_images"}
    | {"optimizer_class", "optimizer_kwargs", "n_critics", "n_quantiles", "clip_mean"}
)
"""Arguments of these policies; what they do to the network is in the tensors, but for those read here and in `sb3`."""

LONGEST = 100_000
"""Characters of the text of a space."""

_BOX = re.compile(r"Box\(([^,()]*), ([^,()]*), \(([0-9, ]*)\), (\w+)\)")
_PARTS = re.compile(r"'([^']*)'(?:: |, )(Box\([^()]*\([^()]*\)[^()]*\)|[A-Z]\w{0,30}\([^()]*\))")


class Space(NamedTuple):
    """A space as the file's text says it; ``low`` and ``high`` of all its numbers, NaN where the text is silent.

    ``numbers``: those of the vector that the policy makes of it.
    """

    kind: str
    numbers: int
    shape: tuple[int, ...] = ()
    dtype: str = ""
    low: float = math.nan
    high: float = math.nan

    @property
    def is_image(self) -> bool:
        """Whether Stable-Baselines3 divides it by 255."""
        return self.kind == "Box" and len(self.shape) == 3 and (self.dtype, self.low, self.high) == ("uint8", 0, 255)


def check_policy(data: Mapping[str, Any]) -> None:
    """Raise GraftError unless the policy and its extractor are classes of the library, with arguments of its own."""
    found = data.get("policy_class")
    module = found.get("__module__") if isinstance(found, dict) else None
    if not isinstance(module, str) or module not in POLICIES:
        raise GraftError(
            f"The file's policy is of a class in {str(module)[:80]!r}; only the policies of Stable-Baselines3 and "
            f"sb3-contrib themselves are read."
        )
    kwargs = data.get("policy_kwargs")
    if not isinstance(kwargs, dict):
        raise GraftError("The file does not say with which arguments its policy was made (policy_kwargs).")
    if strange := sorted(kwargs.keys() - KWARGS - {":type:", ":serialized:"}):
        raise GraftError(f"The file's policy was made with {strange[0][:80]!r}, which is not known.")
    extractor = kwargs.get("features_extractor_class")
    known = {f"<class 'stable_baselines3.common.torch_layers.{name}'>" for name in EXTRACTORS}
    if extractor is not None and str(extractor) not in known:
        raise GraftError(
            f"The file's policy reads observations with {str(extractor)[:120]!r}; only {', '.join(sorted(EXTRACTORS))} "
            f"of Stable-Baselines3 are read."
        )
    if kwargs.get("normalize_images", True) not in (True, False, "True", "False"):
        raise GraftError("The file does not say whether its policy divides pictures by 255 (normalize_images).")


def flag(kwargs: Mapping[str, Any], name: str, default: bool) -> bool:
    """An argument that is true or false, which the file may have as a word."""
    return str(kwargs.get(name, default)) == "True"


def kind_of(space: Any) -> str:
    """The class of a space in the file's JSON, or nothing."""
    match = re.fullmatch(r"<class '(?:gymnasium|gym)\.spaces\.\w+\.(\w+)'>", str(_entry(space, ":type:"))[:200])
    return match[1] if match else ""


def _entry(space: Any, key: str) -> Any:
    return space.get(key) if isinstance(space, dict) else None


def integers(text: Any) -> tuple[int, ...] | None:
    """Whole numbers of a list or its text; None where it is neither, or shortened."""
    words = re.sub(r"[\[\](),\s]+", " ", str(text)[:LONGEST]).split()
    return tuple(map(int, words)) if all(re.fullmatch(r"\d{1,9}", word) for word in words) else None


def reals(text: Any) -> list[float] | None:
    """Numbers of the text of an array; None where it is shortened or none."""
    try:
        return [float(word) for word in re.sub(r"[\[\]\s]+", " ", str(text)[:LONGEST]).split()] or None
    except ValueError:
        return None


def _box(shape: Any, dtype: Any, low: Any, high: Any) -> Space | None:
    # numpy shortens large arrays; what is shown of a picture's bounds is enough to know its scale.
    sides, ends = integers(shape), [reals(str(end).replace("...", " ")) for end in (low, high)]
    if sides is None:
        return None
    least, most = (math.nan if end is None else pick(end) for end, pick in zip(ends, (min, max), strict=True))
    return Space("Box", math.prod(sides), sides, str(dtype), least, most)


def _from_json(space: Any) -> Space | None:
    kind, shape = kind_of(space), _entry(space, "_shape") or _entry(space, "shape")
    if kind == "Box":
        ends = [_entry(space, f"{end}_repr") or _entry(space, end) for end in ("low", "high")]
        return _box(shape, _entry(space, "dtype"), *ends)
    key = {"Discrete": "n", "MultiDiscrete": "nvec", "MultiBinary": "n"}.get(kind)
    counts = None if key is None else integers(_entry(space, key))
    return Space(kind, math.prod(counts) if kind == "MultiBinary" else sum(counts)) if counts else None


def _from_text(text: str) -> Space | None:
    if (match := _BOX.fullmatch(text)) is not None:
        return _box(match[3], match[4], match[1], match[2])
    kind, _, inside = text.partition("(")
    counts = integers(inside) if kind in ("Discrete", "MultiDiscrete", "MultiBinary") else None
    return Space(kind, math.prod(counts) if kind == "MultiBinary" else sum(counts)) if counts else None


def observation_spaces(data: Mapping[str, Any]) -> dict[str, Space]:
    """Part -> space in the file's order; of an observation without parts `WHOLE`.

    Raises GraftError where the file does not say it in words.
    """
    space = data.get("observation_space")
    found: dict[str, Space | None]
    if kind_of(space) == "Dict":
        text = str(_entry(space, "spaces"))
        pairs = _PARTS.findall(text) if len(text) <= LONGEST else []
        found = {name: _from_text(inner) for name, inner in pairs}
        # Nothing but the parts may be in the text: a space that was not understood would be missing.
        rest = _PARTS.sub("", text)
        if len(found) != len(pairs) or not re.fullmatch(r"(?:OrderedDict)?[\s{}()\[\],]*", rest):
            found = {}
    else:
        found = {WHOLE: _from_json(space)}
    known = {name: one for name, one in found.items() if one is not None}
    if not known or len(known) != len(found):
        raise GraftError("The file does not say in words what its observations are (observation_space), or too long.")
    return known


def check_observations(spaces: Mapping[str, Space], schema: ObservationSchema) -> None:
    """Raise GraftError unless the policy sees in the file's spaces the numbers that the task shows, in their order."""
    parts = parts_of(schema)
    if set(spaces) != set(parts):
        raise GraftError(
            f"The file's agent sees {', '.join(map(repr, spaces))[:200]}, the task shows "
            f"{', '.join(map(repr, parts))[:200]}."
        )
    for name, part in parts.items():
        if not _same(spaces[name], part):
            said, where = spaces[name], f" in part {name!r}" if name else ""
            raise GraftError(
                f"The file's agent sees a {said.kind} of shape {said.shape or said.numbers}, type "
                f"{said.dtype[:20] or 'int'} and bounds {said.low:g} to {said.high:g}, which the task shows{where} as "
                f"{part.kind} of shape {part.shape} and type {part.dtype}: scale or order of the numbers differ, or "
                f"cannot be told."
            )


def _same(space: Space, part: ObservationSchema) -> bool:
    """Pictures and boards must have their channels first in the file, too; sides of one length would not show it."""
    if part.kind == "vector":
        return space.numbers == math.prod(part.shape) and not space.is_image
    if space.shape != part.shape or len(set(space.shape)) == 1:
        return False
    if part.kind == "pixels":
        return space.is_image and part.dtype == "uint8"
    least = -1 if space.dtype.startswith("float") else 0
    return part.kind == "planes" and least <= space.low and space.high <= 1


def check_actions(space: Any, actions: ActionSchema) -> str | None:
    """Raise GraftError for actions that are not the task's; returns what could not be compared."""
    kind = kind_of(space)
    wanted = {"box": "Box", "multi": "MultiDiscrete"}.get(actions.kind, "Discrete")
    if kind != wanted:
        raise GraftError(f"The file's agent plays actions of {kind or 'an unknown space'}, the task takes {wanted}.")
    if actions.kind == "multi" and (sizes := integers(_entry(space, "nvec"))) != tuple(actions.sizes):
        raise GraftError(f"The file's agent chooses among {sizes} values, the task among {tuple(actions.sizes)}.")
    if actions.kind != "box":
        return None
    for end, own in (("low", actions.low), ("high", actions.high)):
        said = _entry(space, f"{end}_repr") or _entry(space, end)
        numbers = reals(said)
        if numbers is None:
            return "bounds of actions were not compared: the file has them shortened, or not at all"
        numbers = numbers * len(own) if len(numbers) == 1 else numbers
        if len(numbers) != len(own) or not all(map(_near, numbers, own)):
            raise GraftError(
                f"The file's agent plays actions with the bounds {end}={str(said)[:200]}, the task has {list(own)}."
            )
    return None


def _near(a: float, b: float) -> bool:
    """Equal but for the digits that a text leaves out; the largest number of float32 means unbounded."""
    a = math.copysign(math.inf, a) if abs(a) >= 3.4e38 else a
    return a == b or (math.isfinite(a) and math.isfinite(b) and abs(a - b) <= 1e-4 * max(1.0, abs(b)))
