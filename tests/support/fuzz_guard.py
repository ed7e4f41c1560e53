"""What must hold while Graft reads a broken input: sentences only, no hang, no code run, nothing written elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graft.__main__ import main
from graft.errors import GraftError
from support.broken_inputs import CANARY

CPU_SECONDS = 20  # of the clock five times as many, as the machine may be busy
MEMORY = 1 << 30  # bytes above what the process has
COMPILED = ("numba", "llvmlite", "numpy", "graft", "collections", "copyreg", "types")  # in Numba's cache of games
CACHES = ("__pycache__", "matplotlib", "/.cache/graft")  # of libraries
LONGEST = 20_000  # letters of all that a command says of a broken input
RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class", "socket.connect")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")


class Broken(BaseException):
    """Something else than a sentence came of an input; no `Exception`, so that no reader takes it for an error."""


_watching: list[Path] = []
_seen: list[str] = []


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
        _check_place(event, *(path for path in arguments[: 1 + (event == "os.rename")]))
    elif event == "open" and arguments[0] is not None and _writes(arguments[1], arguments[2]):
        _check_place("open", arguments[0])


def _writes(mode: Any, flags: Any) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _check_place(event: str, *paths: Any) -> None:
    for path in paths:
        if isinstance(path, int):
            continue
        whole = os.path.realpath(os.fsdecode(path))
        inside = any(
            whole.startswith(os.path.realpath(place)) for place in (*_watching, tempfile.gettempdir() + "/tmp")
        )
        if not inside and whole != os.devnull and not any(own in whole for own in CACHES):
            _seen.append(f"{event} {whole}")


sys.addaudithook(_hook)


def _late(*_: Any) -> None:
    raise Broken("it took too long")


@contextlib.contextmanager
def guarded(out: Path, seconds: float = CPU_SECONDS) -> Iterator[None]:
    """Raises AssertionError for what must not happen; ``out``: the only folder that may be written."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = resource.getrlimit(resource.RLIMIT_AS)
    alarms = {signal.SIGALRM: (signal.ITIMER_REAL, 5 * seconds), signal.SIGPROF: (signal.ITIMER_PROF, seconds)}
    before = {number: signal.signal(number, _late) for number in alarms}
    _seen.clear()
    try:
        for timer, after in alarms.values():
            signal.setitimer(timer, after)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limit[1]))
        _watching.append(out)
        yield
    except Broken as broken:
        raise AssertionError(str(broken)) from broken
    finally:
        _watching.clear()
        resource.setrlimit(resource.RLIMIT_AS, limit)
        for number, handler in before.items():
            signal.setitimer(alarms[number][0], 0)
            signal.signal(number, handler)
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
    check_text(err.getvalue())
    if not (out.getvalue() + err.getvalue()).replace("\n", "").replace("\t", "").isprintable():
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
        return bool(str(error))
    return False
