"""Who may import whom, read from the sources and from processes that import them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("envs", "agents", "transfer", "experiments")
"""Each imports only itself and those before it."""

HOMES = {
    "stable_baselines3": ("agents/sb3/",),
    "ray": (
        "agents/rllib/",
        "agents/ray_access.py",
        "experiments/launchers/ray.py",
    ),
    "optuna": ("experiments/search/",),
}
"""Package -> the only places that import it."""


def sources() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, inside functions and conditions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relative to itself"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def test_there_is_something_to_read():
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(LAYERS)
    assert len(sources()) > 40


def test_all_ways_to_import_are_seen(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import a.b\nfrom c import d\nimport importlib\ndef f():\n    import e as g\n"
        "    importlib.import_module('h.i')\nif True:\n    from j.k import (l, m)\n"
    )
    names = {"a.b", "c", "c.d", "importlib", "e", "h.i", "j.k", "j.k.l", "j.k.m"}
    assert set(imported(file)) == names


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer):
    later = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / layer).rglob("*.py"))
        for name in imported(path)
        if name.split(".")[0] in later
    ]
    assert wrong == []


@pytest.mark.parametrize("package", HOMES)
def test_backends_are_imported_at_home_alone(package):
    users = [str(path.relative_to(ROOT)) for path in sources() if package in {n.split(".")[0] for n in imported(path)}]
    assert [user for user in users if not user.startswith(HOMES[package])] == []


@pytest.mark.parametrize("backend", ["graft.agents.sb3", "graft.agents.rllib"])
def test_only_experiments_use_a_backend(backend):
    home = backend.replace(".", "/")
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        for name in imported(path)
        if f"{name}.".startswith(f"{backend}.")
    }
    assert [user for user in sorted(users) if not user.startswith((home, "experiments/"))] == []


def test_environments_need_no_torch():
    users = [path for path in sorted((ROOT / "envs").rglob("*.py")) for name in imported(path) if name[:5] == "torch"]
    assert users == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import envs; list(envs.ADAPTERS)", ["torch", "ray", "stable_baselines3"]),
        (
            "import envs, agents, transfer; from graft.agents.networks.encoder import ENCODERS;"
            "list(envs.ADAPTERS), list(ENCODERS), list(transfer.METHODS)",
            ["ray", "stable_baselines3", "matplotlib"],
        ),
        ("import graft.experiments.run, graft.experiments.tune", ["ray", "optuna"]),
    ],
)
def test_what_is_not_needed_is_not_loaded(statement, absent):
    script = f"{statement}\nimport sys\nprint(*(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("entry", ["transfer", "graft.envs.factory"])
def test_every_entry_can_be_the_first(entry):
    """No import works only because another came before it."""
    subprocess.run([sys.executable, "-c", f"import {entry}"], cwd=ROOT, check=True)
