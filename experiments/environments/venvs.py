"""Virtual environments for packages whose pins clash with each other: Graft's own dependencies, then the packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path
from typing import Any

import graft
from graft.errors import GraftError
from graft.experiments.environments.entries import Package

CHECK = "graft.experiments.environments.check"
DISTRIBUTION = "graft-rl"
SECONDS_TO_INSTALL = 1800
COMPLETE = "graft-is-installed"
"""A file of a virtual environment, written when all that Graft needs is in it: a run may be stopped before."""


class Venvs:
    """Virtual environments in a folder, made when they are first needed; they see the Graft that is running.

    With ``uv`` on the path it installs, else ``pip`` does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._installed: dict[tuple[str, str], str | None] = {}

    def install(self, name: str, package: Package) -> str | None:
        """Put a package into its virtual environment; returns why it can't be, in a line, or None."""
        key = (package.venv, name)
        if key not in self._installed:
            try:
                if not (made := self.folder / package.venv / COMPLETE).exists():
                    self._make(package)
                    made.touch()
                self._install(package, package.install, package.unpin)
                self._installed[key] = None
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                self._installed[key] = _reason(error)
        return self._installed[key]

    def python(self, package: Package) -> Path:
        place = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
        return self.folder / package.venv / Path(*place)

    def run(self, package: Package, jobs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run jobs of `check` in a package's environment; gives what came of each, as soon as it is known.

        Raises GraftError where the process ends before the last of them.
        """
        with tempfile.TemporaryDirectory() as folder:
            listed, log = Path(folder) / "jobs.json", Path(folder) / "log.txt"
            listed.write_text(json.dumps(jobs), encoding="utf-8")
            env = {**os.environ, "PYTHONPATH": str(self.graft_path()), "PYTHONWARNINGS": "ignore"}
            for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):  # no window and no sound
                env.setdefault(variable, "dummy")
            command = [str(self.python(package)), "-m", CHECK, str(listed)]
            done = 0
            with (
                log.open("w", encoding="utf-8") as errors,
                subprocess.Popen(
                    command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
                ) as process,
            ):
                assert process.stdout is not None
                for line in process.stdout:
                    done += 1
                    yield json.loads(line)
            if done < len(jobs):
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise GraftError(f"{CHECK} ended with exit code {process.returncode}: {lines[-1] if lines else ''}")

    def graft_path(self) -> Path:
        """A folder that holds nothing but this Graft, wherever it is installed."""
        folder = self.folder / "graft"
        folder.mkdir(parents=True, exist_ok=True)
        link, place = folder / "graft", Path(graft.__file__).parent.resolve()
        if link.is_symlink() and link.resolve() != place:
            link.unlink()
        if not link.exists():
            link.symlink_to(place, target_is_directory=True)
        return folder

    def _make(self, package: Package) -> None:
        folder = self.folder / package.venv
        if self.python(package).exists():
            pass  # of a run that was stopped
        elif uv := shutil.which("uv"):
            _call([uv, "venv", "--python", sys.executable, str(folder)])
        else:
            _call([sys.executable, "-m", "venv", str(folder)])
        self._install(package, grafts_requirements(), package.unpin)

    def _install(self, package: Package, requirements: Sequence[str], unpin: Collection[str]) -> None:
        if not requirements:
            return
        python = str(self.python(package))
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / "constraints.txt"
            pins.write_text("\n".join(constraints(unpin)), encoding="utf-8")
            if uv := shutil.which("uv"):
                links = os.environ.get("PIP_FIND_LINKS")
                extra = ["--find-links", links] if links else []
                _call([uv, "pip", "install", "-q", "--python", python, *extra, "-c", str(pins), *requirements])
            else:
                _call([python, "-m", "pip", "install", "-q", "-c", str(pins), *requirements])


def grafts_requirements() -> list[str]:
    """What Graft itself needs, without its extras; raises GraftError where its metadata is not there."""
    try:
        listed = requires(DISTRIBUTION) or []
    except PackageNotFoundError as error:
        raise GraftError(f"{DISTRIBUTION} is not installed; install it, in a checkout with `make setup`.") from error
    return [line for line in listed if "extra ==" not in line]


def constraints(unpin: Collection[str]) -> list[str]:
    """The versions that are installed here, but for ``unpin``, as pip's constraints."""
    free = {_plain(name) for name in (*unpin, DISTRIBUTION)}
    found = {_plain(d.name): d.version.partition("+")[0] for d in distributions() if d.name}
    return [f"{name}=={number}" for name, number in sorted(found.items()) if name not in free]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _call(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS_TO_INSTALL)


def _reason(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"its installation took longer than {SECONDS_TO_INSTALL} s"
    text = " ".join(str(error.stderr).split())
    return text[-400:] or f"exit code {error.returncode}"
