"""When a token is used to join a Ray cluster, played by objects; a Ray of one's own leaves none behind."""

from __future__ import annotations

import os

import pytest

from graft.agents.ray_session import auth
from graft.agents.ray_session.auth import MODE, TOKEN, cluster_token, private_token
from graft.errors import GraftError


@pytest.fixture
def here(monkeypatch):
    """``here(has, fits, demands)``: whether this machine has a token, and a cluster that demands one that it fits."""
    monkeypatch.delenv(MODE, raising=False)
    monkeypatch.delenv(TOKEN, raising=False)

    def set_up(has, fits=True, demands=True):
        class Loader:
            instance = classmethod(lambda cls: cls())

            def has_token(self, ignore_auth_mode):
                return has

        class Config:
            initialize = staticmethod(lambda text: None)

        monkeypatch.setattr(auth, "reload_auth", lambda: None)
        monkeypatch.setattr(auth, "Config", Config)
        monkeypatch.setattr(auth, "AuthenticationTokenLoader", Loader)
        admits = lambda address: not demands or (os.environ.get(MODE) == "token" and has and fits)  # noqa: E731
        monkeypatch.setattr(auth, "_accepts", admits)

    return set_up


@pytest.mark.parametrize("demands", [False, True])
def test_a_token_is_used_where_it_is_demanded_and_only_there(here, demands):
    here(has=True, demands=demands)
    with cluster_token("head:6379"):
        assert os.environ.get(MODE) == ("token" if demands else None)
    assert MODE not in os.environ


@pytest.mark.parametrize(
    ("has", "fits", "mode", "words"),
    [
        (False, True, None, "demands a token, and there is none here; set RAY_AUTH_TOKEN"),
        (True, False, None, "demands a token, and the one here is another"),
        (True, False, "token", "demands a token, and the one here is another"),
        (True, True, "disabled", "demands a token, and RAY_AUTH_MODE is 'disabled'"),
        (False, True, "token", "RAY_AUTH_MODE is 'token', and there is none here"),
    ],
)
def test_a_token_that_is_missing_or_does_not_fit_is_an_error(here, monkeypatch, has, fits, mode, words):
    here(has, fits)
    if mode is not None:
        monkeypatch.setenv(MODE, mode)
    with pytest.raises(GraftError) as caught, cluster_token("head:6379"):
        pass
    assert words in str(caught.value)
    assert os.environ.get(MODE) == mode


def test_an_own_token_is_new_each_time_and_gone_afterwards(here, monkeypatch):
    here(has=False)
    seen = []
    for before in (None, "mine"):
        if before is not None:
            monkeypatch.setenv(TOKEN, before)
        with private_token():
            assert os.environ[MODE] == "token"
            seen.append(os.environ[TOKEN])
        assert MODE not in os.environ
        assert os.environ.get(TOKEN) == before
    assert len({*seen, "mine"}) == 3
    monkeypatch.setenv(MODE, "disabled")
    with private_token():
        assert os.environ[MODE] == "disabled"
        assert os.environ[TOKEN] == "mine"
