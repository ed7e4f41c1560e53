"""Planes by names, by attributes and by both: against numpy, in games, in games for teams, and in anybody's planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from support.game_states import batch, place
from support.tiny_tasks import TASK, vector

from graft import envs
from graft.envs import GraftError, ObservationSchema, Task
from graft.envs.builtin.arena.pettingzoo_env import parallel_env
from graft.envs.builtin.engine.channels import CHOICES, Channels
from graft.envs.builtin.engine.entities import ATTRIBUTES, ENTITIES, MARK
from graft.envs.builtin.engine.game import GAMES, NOOP
from graft.envs.factory import make_teams

NAMES = ("ghost", "wall", "enemy", "is_deadly")
WORDS = ((), ("solid",), ("deadly", "mobile"), ("deadly",))
PLANES = ObservationSchema("planes", NAMES, WORDS, (4, 2, 3), "float32", (0.0, 0.0, 0.5, -1.0), (1.0, 2.0, 1.0, 0.0))


def by_hand(schema: ObservationSchema, shown: ObservationSchema, planes: Any) -> Any:
    """Channels of ``shown`` from planes (N, C, H, W): the plane of that name, or the maximum of those with the word."""
    found = []
    for name in shown.names:
        word = name.removeprefix("is_")
        own = [i for i, words in enumerate(schema.attributes) if name != word and word in words]
        found.append(planes[:, own or [schema.names.index(name)]].max(1))
    return np.stack(found, 1)


def test_schemas_by_hand() -> None:
    attributes, both = (Channels(PLANES, choice, "x").schema for choice in ("attributes", "both"))
    assert attributes.names == ("ghost", "is_solid", "is_deadly", "is_mobile")  # what has no attributes is not lost
    assert attributes.attributes == ((), ("solid",), ("deadly",), ("mobile",))
    assert attributes.low == (0.0, 0.0, 0.5, 0.5)
    assert attributes.high == (1.0, 2.0, 1.0, 1.0)
    assert both.names == (*NAMES, "is_solid", "is_mobile")  # is_deadly has its place
    assert both.attributes == (*WORDS, ("solid",), ("mobile",))
    assert both.shape == (6, 2, 3)
    assert Channels(PLANES, "names", "x").schema == PLANES
    words = PLANES.extended(("red", "green"), "mission")  # which are told apart by nothing but their names
    assert Channels(words, "attributes", "x").schema.names[1:3] == ("red", "green")


def test_channels_are_maxima_of_planes() -> None:
    planes = np.random.default_rng(0).random((5, 4, 2, 3)).astype(np.float32)
    channels = Channels(PLANES, "attributes", "x")
    seen = np.empty((5, *channels.schema.shape), np.float32)
    channels.show(planes, seen)
    np.testing.assert_array_equal(seen, by_hand(PLANES, channels.schema, planes))
    np.testing.assert_array_equal(seen[:, 2], np.maximum(planes[:, 2], planes[:, 3]))


def test_what_cannot_be_shown_so() -> None:
    with pytest.raises(GraftError, match=r"Unknown channels of x 'attribute'.*Did you mean 'attributes'"):
        Channels(PLANES, "attribute", "x")
    with pytest.raises(GraftError, match="channels=both of x is not possible: it shows vector, not planes"):
        Channels(vector(["a"], [["solid"]]), "both", "x")
    bare = ObservationSchema("planes", ("a",), ((),), (1, 2, 2), "uint8", (0.0,), (1.0,))
    with pytest.raises(
        GraftError, match="it shows planes without attributes; give channels: names, or attributes in its"
    ):
        Channels(bare, "attributes", "x")


@pytest.mark.parametrize("view", ["planes", "ego"])
@pytest.mark.parametrize("choice", ["attributes", "both"])
@pytest.mark.parametrize("game", list(GAMES))
def test_a_game_shows_its_names_by_attributes(game: str, choice: str, view: str) -> None:
    """At every step, and last observations too, whatever fog, noise and a mirror do to the planes."""
    kwargs = {"view": view, "fog": 3, "noise": 0.01, "mirror": True}
    plain, env = (envs.make(Task(game, {**kwargs, "channels": c}), 8, 0) for c in ("names", choice))
    before, after = plain.observation_schema, env.observation_schema
    assert after == Channels(before, choice, game).schema
    np.testing.assert_array_equal(by_hand(before, after, plain.reset()[0]), env.reset()[0])
    for actions in np.random.default_rng(0).integers(0, 6, (60, 8)):
        expected, got = plain.step(actions), env.step(actions)
        np.testing.assert_array_equal(by_hand(before, after, expected[0]), got[0])
        if "final_obs" in got[4]:
            ended = got[4]["_final_obs"]
            last = by_hand(before, after, expected[4]["final_obs"][ended])
            np.testing.assert_array_equal(last, got[4]["final_obs"][ended])


def test_a_rock_of_dodge_by_hand() -> None:
    """The player in the middle of the lowest row, a rock two rows above."""
    env = batch("Dodge", view="ego", radius=2, channels="attributes", fall_rate=0.0)
    place(env, (9, 5), {(6, 5): 1})
    seen = dict(zip(env.observation_schema.names, env.step(np.array([NOOP]))[0][0], strict=True))
    assert list(seen) == ["is_self", "is_deadly", "is_falling", "is_mobile", "is_outside", "is_solid"]
    rock, outside = np.zeros((5, 5)), np.zeros((5, 5))
    rock[0, 2], outside[3:] = 1, 1
    for name, plane in {"is_deadly": rock, "is_falling": rock, "is_outside": outside, "is_solid": outside}.items():
        np.testing.assert_array_equal(seen[name], plane)


@pytest.mark.parametrize("game", list(GAMES))
def test_things_that_behave_differently_mean_different_things(game: str) -> None:
    things = dict.fromkeys((*GAMES[game].things, "outside"))
    meanings = [GAMES[game].attributes(thing) for thing in things]
    assert len(set(meanings)) == len(meanings)
    assert {word for words in meanings for word in words} <= ATTRIBUTES.keys()
    for view in ("planes", "ego", "features"):
        schema = GAMES[game].resolve({"view": view, "channels": "names"}).seen
        for name, words in zip(schema.names, schema.attributes, strict=True):
            thing, _, feature = name.partition(".")
            assert words == tuple(sorted((*GAMES[game].attributes(thing), *filter(None, [feature]))))


def test_games_have_meanings_of_their_own() -> None:
    """What is beside the road kills, and so does the border for a snake."""
    assert GAMES["Graft/Race-v0"].attributes("wall") == ("deadly", "falling", "fast")
    assert GAMES["Graft/Gather-v0"].attributes("wall") == ("solid",)
    assert GAMES["Graft/Snake-v0"].attributes("outside") == ("deadly", "outside")


def test_teams_see_attributes_too() -> None:
    plain, squad = (make_teams(Task("Graft/Pursuit-v0", {"channels": c}), 3, 4) for c in ("names", "attributes"))
    before, after = (games.schemas_of("prey").observation for games in (plain, squad))
    assert after == Channels(before, "attributes", "x").schema
    shown, seen = plain.reset()[0], squad.reset()[0]
    rng = np.random.default_rng(0)
    for _ in range(30):
        for team, planes in shown.items():
            rows = by_hand(before, after, planes.reshape(-1, *before.shape))
            np.testing.assert_array_equal(rows, seen[team].reshape(-1, *after.shape))
        actions = {team: rng.integers(0, 6, (4, len(its))) for team, its in squad.teams.items()}
        shown, seen = plain.step(actions)[0], squad.step(actions)[0]
    rows = envs.make(Task("Graft/Pursuit-v0", {"channels": "attributes"}), 5, 0)
    assert rows.observation_schema == after
    assert rows.reset()[0].shape == (5, *after.shape)
    assert parallel_env("pursuit", channels="both").observation_space("prey_0").shape[0] > after.shape[0]


class Board(gym.Env[Any, Any]):
    """Anybody's environment of planes, whose author says what they mean; ``channels`` is a number of its own."""

    observation_names = ("lava", "floor", "me")
    observation_attributes = {"lava": ["deadly"], "me": ["self"]}  # noqa: RUF012
    action_space = gym.spaces.Discrete(2)

    def __init__(self, channels: int = 3) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (channels, 5, 5), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._seen(), 0.0, False, bool(self.np_random.random() < 0.2), {}

    def _seen(self) -> Any:
        return self.np_random.integers(0, 2, self.observation_space.shape, np.uint8)


@pytest.fixture
def board() -> Any:
    gym.register("Board-v0", entry_point=Board)
    envs.schemas.cache_clear()
    yield "Board-v0"
    gym.registry.pop("Board-v0")


def test_anybodys_planes_by_attributes(board: str) -> None:
    plain, env = (envs.make(Task(board, {"channels": c}), 3, 0) for c in (3, "attributes"))
    assert env.observation_schema.names == ("floor", "is_deadly", "is_self")
    obs, seen = plain.reset()[0], env.reset()[0]
    finals = 0
    for _ in range(20):
        np.testing.assert_array_equal(obs[:, [1, 0, 2]], seen)
        (obs, *_, first), (seen, *_, infos) = plain.step(np.zeros(3, int)), env.step(np.zeros(3, int))
        if "final_obs" in infos:
            ended = infos["_final_obs"]
            finals += ended.sum()
            np.testing.assert_array_equal(first["final_obs"][ended][:, [1, 0, 2]], infos["final_obs"][ended])
    assert finals > 0
    named = {"schema": {"attributes": {"floor": "support"}}, "channels": "both"}
    assert envs.schemas(Task(board, named)).observation.names == (
        "lava",
        "floor",
        "me",
        "is_deadly",
        "is_support",
        "is_self",
    )


@pytest.mark.usefixtures("tiny_tasks")
def test_a_task_without_planes_says_so() -> None:
    with pytest.raises(GraftError, match="is not possible: it shows vector, not planes"):
        envs.make(Task(TASK.id, {"channels": "attributes"}), 1, 0)


@pytest.mark.parametrize("choice", CHOICES)
def test_gymnasium_makes_games_with_the_keyword(choice: str) -> None:
    env = gym.make("Graft/Hunt-v0", view="ego", channels=choice, disable_env_checker=True)
    names = env.unwrapped.observation_names  # type: ignore[attr-defined]
    assert ("enemy" in names) == (choice != "attributes")
    assert ("is_deadly" in names) == (choice != "names")
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_the_table_of_attributes_is_the_vocabulary() -> None:
    """Word, meaning and things of every attribute, as the documentation has them; each is used by something."""
    own = {f"{thing} in {Task(game)!s}": words for game in GAMES for thing, words in GAMES[game].meanings.items()}
    usual = {thing: entity.attributes for thing, entity in ENTITIES.items() if not thing.startswith(MARK)}
    drawn = {word for thing in GAMES["Graft/Generated-v0"].things for word in ENTITIES[thing].attributes}
    expected = []
    for word, meaning in ATTRIBUTES.items():
        things = [thing for thing, words in usual.items() if word in words]
        things += [t for t, words in own.items() if word in words and t.partition(" ")[0] not in things]
        things = things or ["what Generated draws"] * (word in drawn)
        assert things, f"nothing is {word}"
        expected.append(f"| `{word}` | {meaning} | {', '.join(things)} |")
    page = (Path(__file__).parents[4] / "docs" / "games.md").read_text(encoding="utf-8")
    table = page.partition("| attribute | what it means | things |\n| --- | --- | --- |\n")[2].partition("\n\n")[0]
    assert table.splitlines() == expected
    assert drawn.union(*usual.values(), *own.values()) == ATTRIBUTES.keys()
