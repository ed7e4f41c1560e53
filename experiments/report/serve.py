"""A run's page in the browser while the run goes on, from this machine only."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from graft.errors import GraftError
from graft.experiments.report.common import unfinished_notes
from graft.experiments.report.page.render import page
from graft.experiments.report.so_far import latest

PERIOD = 5.0
"""Seconds between two pages, at least; browsers ask again after twice as long."""

PATIENCE = 10.0
"""Seconds that a connection may stay silent."""

HOST = "127.0.0.1"


class LivePage:
    """The page of a run's folder, made anew where files of its stages have changed, but not often."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._seen: object = None
        self._made = 0.0
        self._text, self.goes_on = "", True

    def text(self) -> str:
        """Its HTML; a sentence where there is nothing to show yet. Several threads may ask."""
        with self._lock:
            return self._made_if_due()

    def _made_if_due(self) -> str:
        if self._text and time.monotonic() - self._made < PERIOD:
            return self._text
        files = [*self._folder.glob("stages/*/stage.json"), *self._folder.glob("*.json"), *self._folder.glob("*.gif")]
        files += self._folder.glob("stages/*/metrics.jsonl")
        if (seen := {(path, path.stat().st_mtime_ns) for path in files if path.exists()}) == self._seen:
            return self._text
        try:
            run = latest(self._folder)
            self._text, self.goes_on = page([run], [self._folder.resolve().name]), bool(unfinished_notes(run.results))
        except (GraftError, OSError) as error:  # of files that a run just replaces
            self._text = f"<!DOCTYPE html><title>Graft report</title><p>{html.escape(str(error))}</p>"
        self._seen, self._made = seen, time.monotonic()
        return self._text


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Of a run's page; raises GraftError where the port is taken."""
    live = LivePage(folder)

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            data = live.text().encode(errors="replace")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            if live.goes_on:
                self.send_header("Refresh", f"{2 * PERIOD:g}")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise GraftError(f"Port {port} can't be used ({error}); choose another --port.") from error


def serve(folder: Path, port: int, say: Callable[[str], None]) -> None:
    """Until Ctrl-C."""
    with server(folder, port) as made:
        say(f"The report of {folder}, as it is now: http://{HOST}:{made.server_port}/  (Ctrl-C ends)")
        made.serve_forever()
