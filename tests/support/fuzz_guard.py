"""What must hold while Graft reads a broken input: sentences only, no hang, no code run, nothing written elsewhere."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graft.__main__ import main
from graft.command import BAD_INPUT
from graft.errors import GraftError, printable
from support.broken_inputs import CANARY

with contextlib.suppress(ImportError):
    import envpool  # noqa: F401  # which makes a folder for Matplotlib's cache as it is imported

CPU_SECONDS = 20  # of the clock five times as many, as the machine may be busy
MEMORY = 1 << 30  # bytes above what the process has
COMPILED = ("numba", "llvmlite", "numpy", "graft", "collections", "copyreg", "types")  # in Numba's cache of games
CACHES = ("matplotlib", "graft")  # folders in ``.cache``
UNCHANGED = ("other", "tiny.yaml", "fuzz_canary.py")  # in the folder that is watched
LONGEST = 20_000  # letters of all that a command says of a broken input
RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class", "socket.connect")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")

TWO_PATHS = ("os.rename", "os.symlink", "os.link")


class Broken(BaseException):
    """Something else than a sentence came of an input; no `Exception`, so that no reader takes it for an error."""


_watching: list[Path] = []
_seen: list[str] = []
_refusals: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or not isinstance(event, str):
        return
    if event == CANARY:
        _seen.append("a module that the input names was run")
    elif event == "pickle.find_class" and arguments[0].partition(".")[0] in COMPILED:
        return
    elif event in RUNS and not (event == "subprocess.Popen" and "git" in arguments[1][:1]):  # of `provenance`
        _seen.append(f"{event} {arguments!r}"[:300])
    elif event in CHANGES:
        # Of a link, what is made; of a rename, both.
        _check_place(event, *arguments[event in ("os.symlink", "os.link") : 1 + (event in TWO_PATHS)])
    elif event == "open" and arguments[0] is not None and _writes(arguments[1], arguments[2]):
        _check_place("open", arguments[0])


def _writes(mode: Any, flags: Any) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _check_place(event: str, *paths: Any) -> None:
    for path in paths:
        if isinstance(path, int):
            continue
        whole = Path(os.path.realpath(os.fsdecode(path)))
        if not (_allowed(whole) or str(whole) == os.devnull):
            _seen.append(f"{event} {whole}")


def _allowed(path: Path) -> bool:
    for place in _watching:
        if path.is_relative_to(place.resolve()):
            return path.relative_to(place.resolve()).parts[:1] not in [(name,) for name in UNCHANGED]
    temporary = Path(tempfile.gettempdir()).resolve()
    if path.is_relative_to(temporary) and path.relative_to(temporary).parts[0].startswith(("tmp", "matplotlib")):
        return True
    return "__pycache__" in path.parts or any(
        first == ".cache" and then in CACHES for first, then in itertools.pairwise(path.parts)
    )


sys.addaudithook(_hook)


def _late(*_: Any) -> None:
    raise Broken("it took too long")


@contextlib.contextmanager
def guarded(out: Path, seconds: float = CPU_SECONDS) -> Iterator[None]:
    """Raises AssertionError for what must not happen; ``out``: the only folder that may be written."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = resource.getrlimit(resource.RLIMIT_AS)
    alarms = {signal.SIGALRM: (signal.ITIMER_REAL, 5 * seconds), signal.SIGPROF: (signal.ITIMER_PROF, seconds)}
    handlers = {number: signal.signal(number, _late) for number in alarms}
    _seen.clear()
    sys.modules.pop(CANARY, None)  # so that it would be run again
    start = time.monotonic()
    left = {number: signal.setitimer(timer, after, after)[0] for number, (timer, after) in alarms.items()}
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limit[1]))
        _watching.append(out)
        yield
    except Broken as broken:
        raise AssertionError(str(broken)) from broken
    finally:
        for timer, _ in alarms.values():
            signal.setitimer(timer, 0)
        _watching.clear()
        resource.setrlimit(resource.RLIMIT_AS, limit)
        for number, handler in handlers.items():
            signal.signal(number, handler)
            if left[number]:  # of pytest-timeout
                signal.setitimer(alarms[number][0], max(0.1, left[number] - (time.monotonic() - start)))
    assert not _seen, _seen[0]


def graft(*words: str) -> int:
    """Run the command in this process; its exit code. Raises Broken where it says something else than sentences."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:  # of argparse
            code = end.code if isinstance(end.code, int) else -1
        finally:
            sys.path[:] = path
    if code == BAD_INPUT:
        _refusals.append(f"{' '.join(words)}: {err.getvalue()}")
    check_text(err.getvalue())
    seen = (out.getvalue() + err.getvalue()).replace("\n", "").replace("\t", "")
    if printable(seen, len(seen)) != seen:
        raise Broken(f"what a terminal obeys: {(out.getvalue() + err.getvalue())[:2000]!r}")
    if code not in (0, 1, 2):
        raise Broken(f"exit code {code}")
    return code


def check_text(text: str) -> None:
    if len(text) > LONGEST or "Traceback" in text:
        raise Broken(f"no sentence, {len(text)} letters: {text[:2000]}")


def refused(read: Callable[[], Any]) -> bool:
    """Whether ``read`` raises GraftError; anything else that it raises goes on."""
    try:
        read()
    except GraftError as error:
        _refusals.append(str(error))
        return bool(str(error))
    return False


def refusals(read: Callable[[], Any]) -> list[str]:
    """What ``read`` was told by `graft` and `refused`."""
    _refusals.clear()
    read()
    return list(_refusals)
