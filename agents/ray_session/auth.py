"""Tokens of Ray's clusters: one that has a token demands it of whoever joins. For those that start or join one."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from typing import Any

from ray import _raylet
from ray.exceptions import AuthenticationError, RayError

from graft.errors import GraftError

_core: Any = _raylet  # its types leave these out
AuthenticationTokenLoader, Config, GcsClient = _core.AuthenticationTokenLoader, _core.Config, _core.GcsClient

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
"""Environment variables: whether Ray uses a token, and which."""


def forget() -> None:
    """Let this process read mode and token again, as it may not while it is connected: Ray keeps what it has read."""
    Config.initialize("")  # first, or a thread of Ray's that still ends would look for a token that is gone
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """A Ray that this process starts in this block has a token that only its processes know.

    By itself Ray writes one into the home folder, and from then on every `ray start` of the user demands that.
    Where RAY_AUTH_MODE is set, that counts.
    """
    if MODE in os.environ:
        forget()
        yield
        return
    before = os.environ.get(TOKEN)
    os.environ.update({MODE: "token", TOKEN: secrets.token_hex(32)})
    try:
        forget()
        yield
    finally:
        del os.environ[MODE], os.environ[TOKEN]
        if before is not None:
            os.environ[TOKEN] = before


@contextlib.contextmanager
def admitted(address: str) -> Iterator[None]:
    """Use this machine's token while this process is in the cluster at ``address`` (HOST:PORT), if that demands one.

    Never else: this process would demand it as well, and what workers without one ask of it would fail. Where
    RAY_AUTH_MODE is set, that counts.

    Raises:
        GraftError: the cluster demands a token, and there is none or another one; or no cluster answers.
    """
    forget()
    given = os.environ.get(MODE)
    has = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    if given is not None and given.lower() == "token" and not has:  # Ray would end this process
        raise _refused(f"{MODE} is 'token'", "there is none here")
    if _admits(address):
        yield
        return
    demands = f"The Ray cluster at {address} demands a token"
    if not has:
        raise _refused(demands, "there is none here")
    if given is not None:
        raise _refused(demands, "the one here is another" if given.lower() == "token" else f"{MODE} is '{given}'")
    os.environ[MODE] = "token"
    try:
        Config.initialize("")
        if not _admits(address):
            raise _refused(demands, "the one here is another")
        yield
    finally:
        del os.environ[MODE]


def _refused(why: str, but: str) -> GraftError:
    return GraftError(
        f"{why}, and {but}; set {TOKEN} to what `ray get-auth-token` prints on the cluster's head, and {MODE} to token."
    )


def _admits(address: str) -> bool:
    """Whether a cluster talks with this process as it is now; found out at once, where ray.init tries for long."""
    try:
        with _silent():
            GcsClient(address=address)
    except AuthenticationError:
        return False
    except RayError as error:
        raise GraftError(f"What answers at {address} is no Ray cluster of this version: {error}") from error
    return True


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what libraries write past Python's sys.stderr off the screen."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
