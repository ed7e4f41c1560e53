"""Tokens of Ray clusters: a private one for a Ray of our own, the user's one for a cluster that demands it."""

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

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"  # environment variables: whether Ray uses a token, and which


def reload_auth() -> None:
    """Make Ray read mode and token again, which it caches; not allowed while this process is connected."""
    Config.initialize("")  # first, or a thread of Ray's that still ends would look for a token that is gone
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def private_token() -> Iterator[None]:
    """Give a Ray that is started in this block a random token; Ray itself would write one into the home folder, which
    every later `ray start` of the user then demands. A RAY_AUTH_MODE that is set counts instead.
    """
    if MODE in os.environ:
        reload_auth()
        yield
        return
    before = os.environ.get(TOKEN)
    os.environ.update({MODE: "token", TOKEN: secrets.token_hex(32)})
    try:
        reload_auth()
        yield
    finally:
        del os.environ[MODE], os.environ[TOKEN]
        if before is not None:
            os.environ[TOKEN] = before


@contextlib.contextmanager
def cluster_token(address: str) -> Iterator[None]:
    """Use this machine's token in this block, but only if the cluster at ``address`` (HOST:PORT) demands one: else
    requests of workers without a token to this process would fail. A RAY_AUTH_MODE that is set counts instead.
    Raises GraftError where the cluster demands another token than there is, or no cluster answers.
    """
    reload_auth()
    given = os.environ.get(MODE)
    has = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    if given is not None and given.lower() == "token" and not has:  # Ray would end this process
        raise _token_error(f"{MODE} is 'token'", "there is none here")
    if _accepts(address):
        yield
        return
    demands = f"The Ray cluster at {address} demands a token"
    if not has:
        raise _token_error(demands, "there is none here")
    if given is not None:
        raise _token_error(demands, "the one here is another" if given.lower() == "token" else f"{MODE} is '{given}'")
    os.environ[MODE] = "token"
    try:
        Config.initialize("")
        if not _accepts(address):
            raise _token_error(demands, "the one here is another")
        yield
    finally:
        del os.environ[MODE]


def _token_error(why: str, but: str) -> GraftError:
    return GraftError(
        f"{why}, and {but}; set {TOKEN} to what `ray get-auth-token` prints on the cluster's head, and {MODE} to token."
    )


def _accepts(address: str) -> bool:
    """Whether a cluster accepts this process's current token; answers at once, where ray.init retries for minutes."""
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
    """Discard what compiled code writes to the file descriptor of stderr."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
