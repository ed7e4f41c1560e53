"""The server: HTTP and WebSocket, with bounds on what clients send, on how many there are and on how long they take."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from graft.agents.export.ports import action_port
from graft.agents.serving.times import Times
from graft.errors import GraftError
from graft.experiments.serving.batcher import ENDED, Batcher, Refused
from graft.experiments.serving.requests import read_request

CLIENTS = 1024
"""Most requests and WebSockets that are open at once: as many messages may be in memory."""

CONNECTIONS = 2048
"""Most connections, of those that send nothing, too; fewer where the system allows fewer open files."""

SPARE = 512  # open files for all else, and for connections that are accepted and refused at once

IDLE = 6
"""A WebSocket that sends neither a message nor a ping for as many times the server's patience is closed."""

PATIENCE = 10.0  # seconds in which a client has to send a body, or to read an answer

ROUTES = "POST /decide, GET /ws, GET /contract, GET /health, GET /stats, POST /swap"

LOG = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Routes and their limits.

    Args:
        batcher: decides.
        max_bytes: of a message.
        patience: seconds; a client that takes longer to send or to read is disconnected.
    """

    def __init__(self, batcher: Batcher, max_bytes: int, patience: float = PATIENCE) -> None:
        self._batcher, self._max_bytes, self.patience = batcher, max_bytes, patience
        self._open, self._times = 0, Times()
        self.app = web.Application(middlewares=[self._guard], client_max_size=max_bytes)
        self.app.cleanup_ctx.append(self._running)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/stats", self._stats)
        self.app.router.add_get("/contract", self._contract)
        self.app.router.add_post("/decide", self._decide)
        self.app.router.add_post("/swap", self._swap)
        self.app.router.add_get("/ws", self._socket)

    async def _running(self, _: web.Application) -> Any:
        async with self._batcher.running():
            yield

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """No more open requests than allowed, until their answers are read."""
        self._open += 1
        try:
            response = await self._handled(request, handler)
            if isinstance(response, web.Response):
                broken = request.content.exception() is not None
                if broken:
                    response.force_close()
                await self._sent(request, _whole(response, request))
                if broken:  # aiohttp would read on, and log a traceback
                    request.protocol.force_close()
            return response
        finally:
            self._open -= 1

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer, or the error as JSON."""
        try:
            if self._open > CLIENTS:
                raise Refused(503, f"{CLIENTS} requests are open, and no more are taken; try again.")
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            error: Exception = Refused(413, f"The message is too large; at most {self._max_bytes} bytes are allowed.")
        except web.HTTPException as found:
            known = found.status not in (404, 405)
            said = found.text if known else f"{request.method} {request.path[:80]} is not allowed; {ROUTES} are."
            error = Refused(found.status, said or found.reason)
        except web.RequestPayloadError as found:
            error = Refused(400, f"The message cannot be read ({found}).")
        except TimeoutError:
            error = Refused(408, f"The message did not come within {self.patience:g} seconds.")
        except Exception as found:
            error = found
        body = self._refusal(error)
        return web.json_response(body, status=body["status"])

    async def _sent(self, request: web.Request, sending: Awaitable[Any]) -> bool:
        """Whether a client takes an answer; one that does not read is disconnected."""
        try:
            async with asyncio.timeout(self.patience):
                await sending
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()  # closing would wait until what was sent is read
            return False
        return True

    def _refusal(self, error: Exception) -> dict[str, Any]:
        """What is answered in place of actions; an error that nobody foresaw is logged as well."""
        self._batcher.refused()
        if not isinstance(error, GraftError):
            LOG.error("A request failed.", exc_info=error)
            error = Refused(500, f"The server failed ({type(error).__name__}).")
        return {"error": str(error), "status": error.status if isinstance(error, Refused) else 400}

    async def _answer(self, text: bytes | str) -> str:
        start = time.perf_counter()
        actions, version = await self._batcher.decide(read_request(text, self._batcher.model))
        answer = json.dumps({"action": actions, "model": version})
        self._times.add(time.perf_counter() - start)
        return answer

    async def _decide(self, request: web.Request) -> web.Response:
        async with asyncio.timeout(self.patience):
            body = await request.read()
        return web.json_response(text=await self._answer(body))

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        """One answer to each message, in order; the next message is read when the answer is on its way.

        Pings are answered here, as aiohttp would wait without limit for a client that does not read.
        """
        socket = web.WebSocketResponse(
            max_msg_size=self._max_bytes, compress=False, heartbeat=2 * self.patience, autoping=False
        )
        await socket.prepare(request)
        while True:
            try:
                # Of a message that comes byte by byte each byte is a sign of life to aiohttp's heartbeat.
                message = await socket.receive(IDLE * self.patience)
            except TimeoutError:
                await self._sent(request, socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"idle"))
                break
            if message.type is WSMsgType.PING:
                sending = socket.pong(message.data)
            elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                try:
                    answer = await self._answer(message.data)
                except Exception as error:
                    answer = json.dumps(self._refusal(error))
                sending = socket.send_str(answer)
            elif message.type is WSMsgType.PONG:
                continue
            else:
                break
            if not await self._sent(request, sending):
                break
        return socket

    async def _health(self, _: web.Request) -> web.Response:
        if not self._batcher.alive:
            raise Refused(*ENDED)
        return web.json_response({"status": "ok", "model": self._batcher.model.version})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(
            {**self._batcher.stats(), **self._times.summary(), "clients": self._open, "clients_limit": CLIENTS}
        )

    async def _contract(self, _: web.Request) -> web.Response:
        model, sampling = self._batcher.model, self._batcher.sampling
        actions = model.schemas.action
        played = action_port("action", actions)
        if sampling is not None:
            drawn = "an action that is drawn, in the environment's numbers, within its bounds"
            played = played._replace(sampled=True, meaning=drawn if actions.kind == "box" else played.meaning)
        said = {"inputs": [port.to_json() for port in model.ports], "outputs": [played.to_json()]}
        rest = {"actions": actions.to_json(), "sampling": sampling, "model": model.version}
        return web.json_response({**said, **rest})

    async def _swap(self, _: web.Request) -> web.Response:
        return web.json_response({"model": await self._batcher.swap()})


async def _whole(response: web.Response, request: web.Request) -> None:
    await response.prepare(request)
    await response.write_eof()


class _Refusing(asyncio.Protocol):
    """A connection too many: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def most_connections() -> tuple[int, int]:
    """`CONNECTIONS`, or how many the limit of open files leaves, and how many may be accepted at once.

    The limit is raised as far as the system lets us. asyncio accepts up to that number in a turn of its loop, and a
    connection that is refused has its file open for four turns.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return CONNECTIONS, SPARE // 5
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    spare = min(SPARE, soft // 2)
    return min(CONNECTIONS, soft - spare), max(1, spare // 5)


@asynccontextmanager
async def listening(server: Server, host: str, port: int, most: int, backlog: int = 100) -> AsyncIterator[int]:
    """Answer clients on a port, which is returned, of ``most`` connections at once; ``backlog`` may wait for one.

    One that has not sent a whole request within the server's patience, after its beginning or its last answer, is
    closed. Raises GraftError where the port is not free.
    """
    runner = web.AppRunner(
        server.app, access_log=None, shutdown_timeout=2, keepalive_timeout=server.patience, handle_signals=False
    )
    await runner.setup()
    handlers = runner.server
    assert handlers is not None

    loop, made = asyncio.get_running_loop(), 0  # connections whose handler does not know them yet

    def known() -> None:
        nonlocal made
        made -= 1

    def accepted() -> asyncio.Protocol:
        nonlocal made
        if len(handlers.connections) + made >= most:
            return _Refusing()
        made += 1
        loop.call_soon(loop.call_soon, known)  # after `connection_made`, which is called in the next turn
        return handlers()

    try:
        try:
            listener = await loop.create_server(accepted, host, port, backlog=backlog)
        except OSError as error:
            raise GraftError(f"--host {host} --port {port} cannot be served ({error.strerror}).") from error
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
    finally:
        await runner.cleanup()


async def serve(server: Server, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; raises GraftError where the port is not free."""
    async with listening(server, host, port, *most_connections()) as found:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows raises KeyboardInterrupt instead
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        say(f"http://{f'[{host}]' if ':' in host else host}:{found}")
        await stop.wait()
