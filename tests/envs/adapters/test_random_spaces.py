"""Random environments on random spaces: what reaches the network, decoded by its names, is what they gave."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from graft import envs
from graft.envs import ObservationSchema, Task

Box, Discrete = gym.spaces.Box, gym.spaces.Discrete
MultiDiscrete, MultiBinary = gym.spaces.MultiDiscrete, gym.spaces.MultiBinary
WHOLE = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32)
SIDES = (1, 2, 5, 6)  # of pictures and boards
MOST = 2**40  # of whole numbers; Gymnasium can't sample all of int64, nor the last two of smaller types
LIFE = 8  # steps of each environment


class Plan(NamedTuple):
    """What the environments show, and what is wrong (``fault``) with the part at ``path`` in step ``at`` of a life.

    ``side``: which of the sides of pictures counts channels, as the user says.
    """

    space: gym.Space[Any]
    side: str
    seed: int
    fault: str
    path: tuple[Any, ...]
    at: int


class Anything(gym.Env[Any, Any]):
    """Shows samples of ``plan.space``; rewards have every form that a number can have."""

    plan: Plan
    action_space = Discrete(2)

    def __init__(self) -> None:
        self.observation_space = copy.deepcopy(self.plan.space)
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.taken += 1
        shown, number = self.observation_space.sample(), float(self.np_random.normal())
        if self.taken == self.plan.at and self.plan.fault:
            leaf = dict(leaves(self.observation_space))[self.plan.path]
            shown = changed(shown, self.plan.path, lambda value: spoiled(leaf, value, self.plan.fault))
        forms = (number, np.float32(number), np.array([number]), np.array([[number]]), [number], 1, np.bool_(True))
        reward = forms[int(self.np_random.integers(len(forms)))]
        return shown, reward, bool(self.np_random.random() < 0.2), bool(self.np_random.random() < 0.2), {}


@st.composite
def boxes(draw: st.DrawFn) -> gym.Space[Any]:
    """A Box of reals of any shape, or of whole numbers or flags in a row, or what could be a picture."""
    kind = draw(st.sampled_from(("real", "whole", "flags", "picture")))
    if kind == "picture":
        shape = tuple(draw(st.lists(st.sampled_from(SIDES), min_size=2, max_size=4)))
        if len(shape) == 3 and draw(st.integers(0, 9)) == 0:
            shape = (36, 40, 3)
        kinds = (np.uint8, np.uint8, np.bool_, np.int8, np.int32, np.float16, np.float32, np.float64)
        dtype: type[Any] = draw(st.sampled_from(kinds))
        if np.issubdtype(dtype, np.floating):
            return Box(
                draw(st.sampled_from((0.0, -1.0, -7.5))), draw(st.sampled_from((1.0, 200.0, np.inf))), shape, dtype
            )
        most = {np.bool_: 1, np.int8: 127}.get(dtype, 255)
        low = 0 if dtype in (np.uint8, np.bool_) else draw(st.sampled_from((0, -1, -100)))
        return Box(low, draw(st.sampled_from((1, min(3, most), min(100, most), most))), shape, dtype)
    row = (draw(st.integers(1, 4)),)
    if kind == "flags":
        return Box(0, 1, row, np.bool_)
    if kind == "whole":
        dtype = draw(st.sampled_from(WHOLE))
        least, most = max(-MOST, int(np.iinfo(dtype).min) + 2), min(MOST, int(np.iinfo(dtype).max) - 2)
        low = draw(st.lists(st.integers(least, most - 1), min_size=row[0], max_size=row[0]))
        high = [draw(st.integers(number, most)) for number in low]
        return Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)
    real = draw(st.sampled_from((np.float16, np.float32, np.float64)))
    shape = draw(st.sampled_from(((), (1,), row, (2, 2), (2, 1, 3))))
    ends = np.random.default_rng(draw(st.integers(0, 2**32))).normal(
        scale=draw(st.sampled_from((1, 100))), size=(2, *shape)
    )
    ends = np.sort(ends, 0)
    for end, open_to in ((0, -np.inf), (1, np.inf)):
        ends[end] = np.where(draw(st.booleans()), open_to, ends[end])
    return Box(ends[0].astype(real), ends[1].astype(real), shape, real)


@st.composite
def several(draw: st.DrawFn) -> gym.Space[Any]:
    """A MultiDiscrete or MultiBinary of one or two dimensions, or a Discrete."""
    kind = draw(st.sampled_from(("discrete", "multi", "binary")))
    if kind == "discrete":
        return Discrete(draw(st.integers(1, 6)), start=draw(st.integers(-3, 3)))
    shape = draw(st.sampled_from(((1,), (3,), (2, 2))))
    if kind == "binary":
        return MultiBinary(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return MultiDiscrete(rng.integers(1, 5, shape), start=rng.integers(-3, 4, shape))


SPACES = st.recursive(
    st.one_of(boxes(), several()),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(("a", "b", "pos.x", "camera", "keys")), inner, min_size=1, max_size=3).map(
            gym.spaces.Dict
        ),
        st.lists(inner, min_size=1, max_size=3).map(gym.spaces.Tuple),
    ),
    max_leaves=5,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    space, seed, at = draw(SPACES), draw(st.integers(0, 1000)), draw(st.integers(1, LIFE))
    side = draw(st.sampled_from(("first", "last")))
    path, leaf = draw(st.sampled_from(list(leaves(space))))
    return Plan(space, side, seed, draw(st.sampled_from(("", *faults_of(leaf, path)))), path, at)


def leaves(space: gym.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for key, inner in space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space):
            yield from leaves(inner, (*path, key))
    else:
        yield path, space


def faults_of(leaf: Any, path: tuple[Any, ...]) -> list[str]:
    """What can be wrong with a value of ``leaf``."""
    found = ["shape", "text", *(["missing"] if path and isinstance(path[-1], str) else [])]
    if not isinstance(leaf, Box):
        return [*found, "above", "below", "fraction"]
    if leaf.dtype.kind == "f":
        return [*found, "nan", "inf", *(["above"] if np.isfinite(leaf.high).all() else [])]
    return [*found, "fraction", "above"]


def spoiled(leaf: Any, value: Any, fault: str) -> Any:
    """``value`` with a fault."""
    if fault == "text":
        return "x"
    if fault == "shape":
        return np.zeros((*np.shape(value), 2), leaf.dtype)
    numbers = np.array(value, np.float64 if leaf.dtype.kind == "f" else np.int64)
    if fault == "fraction":
        return numbers.astype(np.float64)
    first = (0,) * numbers.ndim
    if fault in ("nan", "inf"):
        numbers[first] = float(fault)
        return numbers.astype(leaf.dtype)
    low, high = ends_of(leaf)
    numbers[first] = int(low[first]) - 1 if fault == "below" else int(high[first]) + 1
    if leaf.dtype.kind == "f":
        width = float(high[first]) - float(low[first])
        numbers[first] = float(high[first]) + (width if math.isfinite(width) else abs(float(high[first])) + 1)
    return numbers


def ends_of(leaf: Any) -> tuple[Any, Any]:
    if isinstance(leaf, Discrete):
        return np.array(int(leaf.start)), np.array(int(leaf.start + leaf.n) - 1)
    if isinstance(leaf, MultiDiscrete):
        return leaf.start, leaf.start + leaf.nvec - 1
    return (leaf.low, leaf.high) if isinstance(leaf, Box) else (np.zeros(leaf.shape), np.ones(leaf.shape))


def changed(shown: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy of ``shown`` in which the part at ``path`` is what ``change`` makes of it, or is "missing"."""
    if not path:
        return change(shown)
    if isinstance(shown, tuple):
        return tuple(changed(part, path[1:], change) if i == path[0] else part for i, part in enumerate(shown))
    if len(path) == 1 and Anything.plan.fault == "missing":
        return {key: part for key, part in shown.items() if key != path[0]}
    return {key: changed(part, path[1:], change) if key == path[0] else part for key, part in shown.items()}


def name_of(path: tuple[Any, ...]) -> str:
    return "/".join(str(key).replace(".", "_") for key in path)


def decoded(schema: ObservationSchema, leaf: Any, shown: Any, side: str) -> Any:
    """The value of ``leaf`` that the numbers ``shown`` of the network's input stand for, by their names and bounds."""
    values = [name.rpartition("=") for name in schema.names]
    if isinstance(leaf, Discrete | MultiDiscrete):
        on = [(entry, int(value)) for (entry, _, value), one in zip(values, shown, strict=True) if one]
        assert len({entry for entry, _ in on}) == len(on)
        return np.reshape([value for _, value in on], leaf.shape)
    if schema.kind == "vector":
        return np.reshape(shown, leaf.shape)
    if values[0][0]:  # a plane for each value
        entries = len(dict.fromkeys(entry for entry, _, _ in values))
        ones = np.reshape(shown, (entries, -1, *schema.shape[1:]))
        assert (ones.sum(1) == 1).all()
        shown = np.take([int(value) for _, _, value in values[: ones.shape[1]]], ones.argmax(1))
    elif leaf.dtype.kind == "f" and not (schema.kind == "planes" and (leaf.low >= -1).all() and (leaf.high <= 1).all()):
        low, high = float(leaf.low.min()), float(leaf.high.max())
        shown = shown / schema.high[0] * (high - low) + low
    apart = np.reshape(shown, (leaf.shape[0] if len(leaf.shape) == 4 else 1, -1, *schema.shape[1:]))
    return np.reshape(apart if side == "first" else np.moveaxis(apart, 1, 3), leaf.shape)


def assert_shows(env: envs.TaskVectorEnv, row: Any, plan: Plan, shown: Any) -> None:
    """``row`` of a batch is ``shown``, its values out of bounds clipped."""
    assert np.isfinite(row).all()
    flat, start, whole = np.ravel(row), 0, env.observation_schema
    parts = [part for _, part in whole.parts] or [whole]
    for (path, leaf), part in zip(leaves(plan.space), parts, strict=True):
        value = shown
        for key in path:
            value = value[key]
        expected = np.asarray(value)
        if isinstance(leaf, Box):
            expected = np.clip(expected, leaf.low, leaf.high).astype(leaf.dtype)
        piece = flat[start : start + math.prod(part.shape)].reshape(part.shape)
        found, expected = decoded(part, leaf, piece, plan.side), expected.astype(np.float32)
        if part.kind != "vector" and isinstance(leaf, Box) and leaf.dtype.kind == "f":  # scaled
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
        else:
            np.testing.assert_array_equal(found, expected)
        start += piece.size
    assert start == len(flat)
    assert env.single_observation_space.contains(row)


def task_of(plan: Plan) -> Task:
    pictures = any(isinstance(leaf, Box) and len(leaf.shape) in (3, 4) for _, leaf in leaves(plan.space))
    return Task("Anything-v0", {"schema": {"channels": plan.side}} if pictures else {})


def play(plan: Plan, mode: str) -> None:
    """Two environments under Graft beside two in plain loops."""
    Anything.plan = plan
    with closing(envs.make(task_of(plan), 2, plan.seed, envs_mode(mode))) as env:
        plain = [Anything() for _ in range(2)]
        before = [one.reset(seed=plan.seed + i)[0] for i, one in enumerate(plain)]
        obs, _ = env.reset()
        for i, shown in enumerate(before):
            assert_shows(env, obs[i], plan, shown)
        comparable = {0, 1}  # not made again
        waiting: set[int] = set()
        while comparable and min(one.taken for one in plain) < LIFE:
            obs, rewards, terminated, truncated, infos = env.step(np.zeros(2, np.int64))
            for i in sorted(comparable):
                if i in waiting:
                    before[i] = plain[i].reset()[0]
                    waiting.discard(i)
                    assert_shows(env, obs[i], plan, before[i])
                    continue
                shown, reward, died, cut, _ = plain[i].step(0)
                clipped = plan.fault in ("above", "below") and isinstance(dict(leaves(plan.space))[plan.path], Box)
                faulty = plain[i].taken == plan.at and plan.fault != "" and not clipped
                assert rewards[i] == float(np.reshape(reward, ()))
                assert (terminated[i], truncated[i]) == (died, not died and (cut or faulty))
                last = infos["final_obs"][i] if mode == "SameStep" and (died or cut or faulty) else obs[i]
                assert_shows(env, last, plan, before[i] if faulty else shown)
                before[i] = shown
                if faulty:
                    comparable.discard(i)
                elif (died or cut) and mode == "SameStep":
                    before[i] = plain[i].reset()[0]
                    assert_shows(env, obs[i], plan, before[i])
                elif died or cut:
                    waiting.add(i)
        assert_told(env, plan)


def envs_mode(mode: str) -> Any:
    return gym.vector.AutoresetMode(mode)


def assert_told(env: envs.TaskVectorEnv, plan: Plan) -> None:
    """The faults and the clipped observations are counted, and messages name the part."""
    faults, part = env.faults, name_of(plan.path)
    if not plan.fault:
        assert (faults.total, faults.clipped) == (0, 0)
        return
    if plan.fault in ("above", "below") and isinstance(dict(leaves(plan.space))[plan.path], Box):
        said, count = faults.clipped_first, faults.clipped
        assert faults.total == 0
    else:
        said, count = faults.last, faults.total
        assert faults["not_finite" if plan.fault in ("nan", "inf") else "outside"] == count
    assert count >= 2
    assert f"'{part}'" in said or f"'{part}/" in said if part else "observation" in said or "feature" in said, said


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    gym.register("Anything-v0", entry_point=Anything, max_episode_steps=None)
    yield
    del gym.registry["Anything-v0"]


RELAXED = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
)


HALF_BOUNDED = gym.spaces.Tuple((Box(-1, 1, (), np.float16), Box(-np.inf, 0.125, (), np.float16)))
"""float16 is packed as float32, whose largest number is another."""


@settings(RELAXED, max_examples=50)
@example(Plan(HALF_BOUNDED, "first", 0, "above", (1,), 1), "SameStep")
@given(plan=plans(), mode=st.sampled_from(("SameStep", "NextStep")))
def test_what_reaches_the_network_is_what_the_environment_gave(plan: Plan, mode: str) -> None:
    play(plan, mode)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(RELAXED, max_examples=2500)
@given(plan=plans(), mode=st.sampled_from(("SameStep", "NextStep")))
def test_what_reaches_the_network_is_what_the_environment_gave_in_thousands(plan: Plan, mode: str) -> None:
    play(plan, mode)
