"""Watching an agent: the animation is what it played, whatever fails leaves no file, and misfits are named."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from PIL import Image
from rich.console import Console
from support import pull_env
from support.tiny_tasks import small_network

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.core.union import union
from graft.envs.factory import make, schemas
from graft.errors import GraftError
from graft.experiments import watch
from graft.experiments.playback import record
from graft.experiments.playback.agent import check_fit, playing
from graft.experiments.playback.frames import EpisodeEnd, PlaybackStep

DODGE = Task("Graft/Dodge-v0", {"fall_rate": 0.4, "view": "planes"})


def checkpoint_of(folder, task, shown=None, parts=None):
    """An agent of random weights, as the stage ``folder`` keeps it."""
    own = schemas(task)
    network = small_network(Schemas(shown or own.observation, own.action), seed=1)
    Checkpoint.of(network, task, parts=parts or {}).save(folder / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("runs") / "stage", DODGE)


def frames_of(path):
    """Pictures (n, H, W, 3) and how many milliseconds each stays; what repeats is one picture that stays longer."""
    with Image.open(path) as image:
        pictures, held = [], []
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            pictures.append(np.array(image.convert("RGB")))
            held.append(image.info["duration"])
    return np.stack(pictures), held


def merged(frames, held):
    """Frames (n, H, W, 3) and milliseconds, with repetitions as one."""
    pictures, stays = [], []
    for frame, milliseconds in zip(frames, held, strict=True):
        if pictures and np.array_equal(pictures[-1], frame):
            stays[-1] += milliseconds
        else:
            pictures.append(frame)
            stays.append(milliseconds)
    return np.stack(pictures), stays


def test_the_animation_is_what_the_agent_played(stage, tmp_path, capsys):
    path = tmp_path / "dodge.gif"
    assert watch.main([str(stage), "--gif", str(path), "--seed", "3", "--episodes", "2", "--fps", "10"]) == 0
    printed = capsys.readouterr().out

    network, generator = Checkpoint.load(stage / "checkpoint").build(), torch.Generator().manual_seed(3)
    env = make(DODGE, 1, 3, AutoresetMode.NEXT_STEP, render_mode="rgb_array")
    obs, _ = env.reset()
    expected, held, returns, ended = [env.render()[0]], [100], [0.0], False
    while len(returns) < 3:
        obs, reward, terminated, truncated, _ = env.step(network.act(obs, generator).numpy())
        ended = bool(terminated[0] or truncated[0])
        expected.append(env.render()[0])
        held.append(800 if ended else 100)
        returns[-1] += reward[0]
        returns += [0.0] * ended
    pictures, shown = frames_of(path)
    expected_pictures, expected_held = merged(expected, held)
    np.testing.assert_array_equal(pictures, expected_pictures)
    assert shown == expected_held
    assert f"episode 1: return {returns[0]:.2f} in" in printed
    assert f"episode 2: return {returns[1]:.2f} in" in printed
    assert f"{len(expected)} frames at 10 a second" in printed
    assert list(tmp_path.iterdir()) == [path]


def test_the_checkpoints_own_folder_and_other_mechanics(stage, tmp_path, capsys):
    where = [str(stage / "checkpoint"), "--gif", str(tmp_path / "a.gif")]
    assert watch.main([*where, "slip=1", "fall_rate=0", "--episodes", "1", "--deterministic"]) == 0
    assert "Dodge(fall_rate=0, slip=1, view=planes), 201 frames at 8 a second" in capsys.readouterr().out


def test_the_limit_of_frames_is_told(stage, tmp_path, capsys):
    path, words = tmp_path / "short.gif", ["--frames", "7", "--fps", "10"]
    assert watch.main([str(stage), str(DODGE.id), "fall_rate=0.0", "view=planes", "--gif", str(path), *words]) == 0
    assert "Note: stopped at 7 frames, before episode 1 ended; --frames sets the limit." in capsys.readouterr().out
    assert sum(frames_of(path)[1]) == 700


def test_a_file_is_replaced_only_when_told_to(stage, tmp_path, capsys):
    path = tmp_path / "a.gif"
    path.write_bytes(b"mine")
    arguments = [str(stage), "--gif", str(path), "--frames", "2"]
    assert watch.main(arguments) == 2
    assert "a.gif exists; choose another name, or give --force" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert watch.main([*arguments, "--force"]) == 0
    assert path.read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["Graft/Maze-v0", "view=planes"],
            "cannot play Maze(view=planes): the task shows wall, door, key, exit, the agent knows only player",
        ),
        (["CartPole-v1"], "it sees planes of uint8 x 10 x 10, the task shows vector of float32; it plays discrete"),
        (["view=pixels"], "the task shows pixels of uint8 x 64 x 64"),
        (["Graft/Dogde-v0"], "Did you mean 'Graft/Dodge-v0'"),
        (["slp=0.1"], "Did you mean 'slip'"),
        (["a", "b"], "Give a checkpoint, then perhaps a task's id"),
        (["--gif", "film.mp4"], "give a name that ends in .gif"),
        (["--gif", "nowhere/a.gif"], "There is no folder nowhere"),
    ],
)
def test_bad_input_ends_with_2_and_leaves_nothing(words, text, stage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert watch.main([str(stage), "--gif", "a.gif", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert text in err
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_a_checkpoint(tmp_path, capsys):
    assert watch.main([str(tmp_path / "none"), "--gif", str(tmp_path / "a.gif")]) == 2
    assert "There is no checkpoint at" in capsys.readouterr().err


def test_an_agent_of_several_tasks_plays_one_of_them(tmp_path, capsys):
    other = Task("Graft/Hunt-v0", {"view": "planes"})
    both = union([schemas(DODGE).observation, schemas(other).observation])
    heads = {"heads": {f"{k}.policy.out.bias": torch.zeros(6) for k in range(2)}}
    folder = checkpoint_of(tmp_path / "stage", DODGE, both, heads)
    assert watch.main([str(folder), other.id, "view=planes", "--gif", str(tmp_path / "a.gif"), "--frames", "3"]) == 0
    printed = capsys.readouterr().out
    assert "Note: Hunt(view=planes) never shows 1 of what the agent looks for: rock." in printed
    assert "plays with the heads of the last one, Dodge(fall_rate=0.4, view=planes)" in printed


def test_environments_of_gymnasium_can_be_watched(tmp_path, capsys):
    pytest.importorskip("minigrid")
    task = Task("minigrid:MiniGrid-Empty-5x5-v0")
    folder = checkpoint_of(tmp_path / "stage", task)
    assert watch.main([str(folder), "--gif", str(tmp_path / "a.gif"), "--frames", "5"]) == 0
    assert "5 frames at 10 a second" in capsys.readouterr().out
    assert frames_of(tmp_path / "a.gif")[0].shape[1:] == (160, 160, 3)


def test_boxes_of_other_bounds_are_played_between_those(tmp_path, monkeypatch):
    """What would have been the most is the most there."""
    pull_env.register(monkeypatch)
    one, other = (Task("Pull-v0", {"low": [low] * 2, "high": [high] * 2}) for low, high in ((-1.0, 1.0), (0.0, 1000.0)))
    network = small_network(schemas(one), seed=1)
    obs = torch.tensor([[0.3, -0.7], [-0.2, 0.9]])
    mine = network.act(obs, torch.Generator().manual_seed(0), deterministic=True)
    theirs = playing(network, other).act(obs, torch.Generator().manual_seed(0), deterministic=True)
    torch.testing.assert_close(theirs, 500 + 500 * mine)
    assert check_fit(network.schemas, other) == []
    assert playing(network, one) is network
    with pytest.raises(GraftError, match=r"its actions lie from \(-1.0, -1.0\) to"):
        check_fit(network.schemas, Task("Pull-v0", {"low": [-np.inf] * 2, "high": [1.0] * 2}))


PREY = Task("Graft/Pursuit-v0", {"team": "prey", "hunters": 2, "prey": [1, 3], "max_steps": 20})


def test_a_squad_is_shown_with_the_ends_of_its_games(tmp_path, capsys):
    folder, path = checkpoint_of(tmp_path / "stage", PREY), tmp_path / "prey.gif"
    assert watch.main([str(folder), "--gif", str(path), "--seed", "3", "--episodes", "3", "--fps", "10"]) == 0
    printed = capsys.readouterr().out

    network, generator = Checkpoint.load(folder / "checkpoint").build(), torch.Generator().manual_seed(3)
    env = make(PREY, 3, 3, render_mode="rgb_array")
    obs, infos = env.reset()
    frames, held, said, total, length, played = [env.render()[0]], [100], [], 0.0, 0, infos["alive"].sum()
    while len(said) < 3:
        obs, reward, _, _, infos = env.step(network.act(obs, generator).numpy())
        total, length, over = total + reward.sum(), length + 1, "final_frame" in infos
        if over:
            won = ("hunters", "prey", "nobody")[infos["winner"][0]]
            said.append(f"episode {len(said) + 1}: return {total / played:.2f} in {length} steps, {won} won")
            frames.append(infos["final_frame"][0])
            total, length, played = 0.0, 0, infos["alive"].sum()
        if len(said) < 3:
            frames.append(env.render()[0])
        held += [800, 100] if over else [100]
    pictures, shown = frames_of(path)
    expected_pictures, expected_held = merged(frames, held[: len(frames)])
    np.testing.assert_array_equal(pictures, expected_pictures)
    assert shown == expected_held
    assert printed.splitlines()[:3] == said


def test_another_game_of_squads_and_names_that_only_the_agent_knows(tmp_path, capsys):
    own = schemas(PREY).observation
    low, high = (*own.low, 0.0), (*own.high, 1.0)
    wide = replace(
        own, names=(*own.names, "rock"), attributes=(*own.attributes, ()), shape=(8, 9, 9), low=low, high=high
    )
    folder = checkpoint_of(tmp_path / "stage", PREY, wide)
    gif = ["--gif", str(tmp_path / "a.gif")]
    assert watch.main([str(folder), "Graft/TeamGather-v0", "reds=2", "opponents=still", *gif, "--episodes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "never shows 1 of what the agent looks for: rock." in printed
    assert "episode 1: return" in printed
    assert "won" in printed


def test_squads_of_pettingzoo_are_shown_as_they_draw_themselves(tmp_path, capsys):
    pytest.importorskip("mpe2")
    task = Task("pettingzoo:mpe2.simple_tag_v3", {"team": "adversary", "max_cycles": 3})
    folder = checkpoint_of(tmp_path / "stage", task)
    assert watch.main([str(folder), "--gif", str(tmp_path / "a.gif"), "--frames", "5", "--fps", "10"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("episode 1: return")
    assert "in 3 steps\n" in printed, "it names no winner"
    assert "5 frames at 10 a second" in printed


def test_a_task_that_cannot_be_drawn_says_so(tmp_path, tiny_tasks, capsys):
    folder = checkpoint_of(tmp_path / "stage", Task("tiny/Match-v0"))
    assert watch.main([str(folder), "--gif", str(tmp_path / "a.gif")]) == 2
    assert "Task tiny/Match cannot be drawn" in capsys.readouterr().err
    assert not (tmp_path / "a.gif").exists()


def test_what_a_renderer_raises_becomes_a_sentence(stage, tmp_path, monkeypatch, capsys):
    def broken(self):
        raise RuntimeError("no display")

    monkeypatch.setattr("graft.envs.builtin.engine.batch.GameVectorEnv.render", broken)
    assert watch.main([str(stage), "--gif", str(tmp_path / "a.gif")]) == 2
    assert "cannot be drawn: RuntimeError, no display." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bar_on_a_terminal(stage, tmp_path, monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, markup=False, highlight=False)
    monkeypatch.setattr("rich.console.Console", lambda **_: screen)
    assert watch.main([str(stage), "--gif", str(tmp_path / "a.gif"), "--episodes", "1"]) == 0
    assert "episode 1: return" in screen.file.getvalue()


@pytest.mark.parametrize("arguments", [["--frames", "0"], ["--episodes", "0"], ["--fps", "60"]])
def test_limits_out_of_range_end_with_2(arguments, capsys):
    assert watch.main(["somewhere", "--gif", "a.gif", *arguments]) == 2
    assert f"error: {' '.join(arguments)} is not allowed" in capsys.readouterr().err


def recorded(path, frames, ends=(), error=None):
    """A GIF of frames, of which some end an episode; it fails with ``error`` after them where there is one."""

    def seen():
        for k, frame in enumerate(frames):
            yield PlaybackStep(frame, EpisodeEnd(0.0, 1) if k in ends else None)
        if error is not None:
            raise error

    return record.record(path, 25, seen(), 100, 100, lambda *_: None)


def test_frames_of_few_and_of_many_colours(tmp_path):
    rng = np.random.default_rng(0)
    plain = np.zeros((5, 40, 60, 3), np.uint8)
    for k in range(1, 5):
        plain[k] = plain[k - 1]
        plain[k, k : k + 9, 2 * k : 3 * k] = rng.integers(0, 256, 3)
    photo = np.indices((40, 60)).sum(0)[..., None] * np.array([2, 1, 2]) + rng.integers(0, 9, (40, 60, 3))
    assert recorded(tmp_path / "a.gif", [*plain, photo.astype(np.uint8)], ends=[5]) == (6, 1)
    pictures, held = frames_of(tmp_path / "a.gif")
    np.testing.assert_array_equal(pictures[:5], plain)
    assert np.abs(pictures[5].astype(int) - photo).mean() < 8
    assert held == [40] * 5 + [40 * record.LAST_FRAME]
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0, "for ever"


def test_a_frame_that_repeats_stays_on_the_screen_as_long(tmp_path):
    frame = np.zeros((40, 60, 3), np.uint8)
    recorded(tmp_path / "a.gif", [frame, frame, frame + 9])
    assert frames_of(tmp_path / "a.gif")[1] == [80, 40]
    recorded(tmp_path / "a.gif", [frame, frame, frame])
    assert frames_of(tmp_path / "a.gif")[1] == [120]
    recorded(tmp_path / "a.gif", [frame])
    assert frames_of(tmp_path / "a.gif")[1] == [40]


def test_a_file_that_was_not_finished_does_not_appear(tmp_path):
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path / "a.gif", [frame], error=KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GraftError, match="cannot be written"):
        recorded(tmp_path / "none" / "a.gif", [frame])
