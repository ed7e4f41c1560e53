"""Terminals of few characters, folders with blanks and umlauts, and systems without fork, fcntl, resource and termios.

Windows itself is not tried here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from graft.__main__ import COMMANDS
from graft.errors import GraftError
from graft.experiments.store.records import Store

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs", "agents", "transfer", "experiments", "graft")

OWN = '''"""Umlaute in the source: äöü."""

from dataclasses import dataclass

import gymnasium as gym

from graft.transfer.method import FromSource


class Wörld(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 8
        return self._seen(), {}

    def step(self, action):
        self.left -= 1
        return self._seen(), float(action), self.left == 0, False, {}

    def _seen(self):
        return self.np_random.uniform(-1, 1, 2).astype("float32")


@dataclass(frozen=True, kw_only=True)
class Söften(FromSource):
    """As finetune."""


gym.register("Wörld-v0", Wörld, max_episode_steps=20)
'''

EXPERIMENT = {
    "name": "elsewhere",
    "sources": "own_world:Wörld-v0",
    "targets": {"id": "own_world:Wörld-v0", "wrappers": [{"TimeLimit": {"max_episode_steps": 5}}]},
    "methods": ["own_world:Söften"],
    "seeds": 1,
    "pretrain": {"steps": 64},
    "transfer": {"steps": 64},
    "network": {"options": {"widths": [8]}, "head": [8]},
    "algorithm": {"name": "ppo", "num_envs": 4, "num_steps": 16, "minibatch": 64, "epochs": 1},
    "evaluation": {"every": 1000, "episodes": 4, "num_envs": 4},
    "recall": 4,
}

PROGRAM = """if True:
    import multiprocessing, os, sys
    del os.fork, os.forkpty  # workers are spawned, or nothing runs
    assert not hasattr(os, "fork")
    from graft.__main__ import main
    config, out, *names = sys.argv[1:]  # which commands change
    for name in names:
        try:
            main([name, "--help"])
        except SystemExit as ended:
            assert ended.code == 0
    assert main(["run", config, "--out", out, "--jobs", "1"]) == 0
    assert main(["run", config, "--out", out, "--jobs", "1"]) == 0
    assert main(["compare", out, out]) == 0
"""


@pytest.mark.parametrize(
    "locale",
    [
        pytest.param({"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}, marks=pytest.mark.slow),
        pytest.param(
            {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["cp1252", "ascii"],
)
@pytest.mark.timeout(600)
def test_from_a_run_to_its_tables(locale: dict[str, str], tmp_path: Path) -> None:
    """Every help, a run in a spawned worker, the same again, and a comparison; the folder is none that ASCII has."""
    folder = tmp_path / "mit Größe"
    folder.mkdir()
    (folder / "own_world.py").write_text(OWN, encoding="utf-8")
    (folder / "vers üb.yaml").write_text(yaml.safe_dump(EXPERIMENT, allow_unicode=True), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **locale}
    words = [sys.executable, "-c", PROGRAM, "vers üb.yaml", "aus gäbe", *COMMANDS]
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, timeout=500)
    said = done.stdout.decode(locale["PYTHONIOENCODING"])
    assert done.returncode == 0, said + done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    for name in COMMANDS:
        assert f"usage: graft {name} " in said
    assert "own_world:S" in said
    assert ("aus gäbe" if locale["PYTHONIOENCODING"] == "cp1252" else "aus g") in said
    assert (folder / "aus gäbe" / "results.json").exists()
    assert (folder / "aus gäbe" / "curves.png").exists()


def test_letters_that_the_file_system_has_no_name_for_are_refused(tmp_path: Path) -> None:
    out = tmp_path / b"aus g\xc3\xa4be".decode("ascii", "surrogateescape")
    with (
        pytest.raises(GraftError, match=r"letters that the file names of this locale .* or set PYTHONUTF8=1"),
        Store(out).lock(),
    ):
        pass


ALONE = """if True:
    import importlib, pkgutil, sys
    import gymnasium, numba, pandas, pydantic, tensorboard, torch  # whose own matter it is how they do without
    import gymnasium.vector, matplotlib.pyplot, pettingzoo, scipy.stats, stable_baselines3, torch.utils.tensorboard
    import optuna, ray, ray.rllib.algorithms.ppo, ray.rllib.algorithms.sac
    for name in ("fcntl", "resource", "termios", "tty", "pwd", "grp"):
        sys.modules[name] = None  # importing it fails from here on
    import graft
    names = [module.name for module in pkgutil.walk_packages(graft.__path__, "graft.", onerror=lambda name: None)]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    print(len(names))
"""


def test_no_module_needs_what_windows_lacks_when_it_is_imported() -> None:
    """At its top; `keys` has the console's way beside the terminal's."""
    lacking = re.compile(r"^(?:import|from) (fcntl|resource|termios|tty|pwd|grp|msvcrt|winreg)\b", re.MULTILINE)
    texts = {path: path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert len(texts) > 200
    assert [str(path) for path, text in texts.items() if lacking.search(text)] == []
    forks = re.compile(r"os\.fork|get_context\(\"fork|set_start_method|preexec_fn|/dev/shm|ProcessPoolExecutor\(\w*\)")
    assert [str(path) for path, text in texts.items() if forks.search(text)] == []


@pytest.mark.slow
def test_every_module_can_be_imported_without_what_windows_lacks() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200
