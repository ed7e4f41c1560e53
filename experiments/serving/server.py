"""The server: HTTP and WebSocket, with bounds on what clients send, on how many there are and on how long they take."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

from graft.agents.export.ports import action_port
from graft.errors import GraftError
from graft.experiments.serving.batcher import Batcher, Refused
from graft.experiments.serving.requests import read_request

CLIENTS = 1024
"""Most requests and WebSockets that are open at once: as many messages may be in memory."""

PATIENCE = 10.0  # seconds in which a client has to send a body, or to read an answer

ROUTES = "POST /decide, GET /ws, GET /contract, GET /health, GET /stats, POST /swap"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Routes and their limits.

    Args:
        batcher: decides.
        max_bytes: of a message.
        patience: seconds; a client that takes longer to send or to read is disconnected.
    """

    def __init__(self, batcher: Batcher, max_bytes: int, patience: float = PATIENCE) -> None:
        self._batcher, self._max_bytes, self._patience = batcher, max_bytes, patience
        self._open = 0
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
                await response.prepare(request)
                await self._sent(request, response.write_eof())
            return response
        finally:
            self._open -= 1

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer, or the error as JSON."""
        try:
            if self._open > CLIENTS:
                raise Refused(503, f"{CLIENTS} requests are open, and no more are taken; try again.")
            return await handler(request)
        except GraftError as error:
            refusal = error
        except web.HTTPRequestEntityTooLarge:
            refusal = Refused(413, f"The message is too large; at most {self._max_bytes} bytes are allowed.")
        except web.HTTPException as error:
            refusal = Refused(error.status, f"{request.method} {request.path[:80]} is not allowed; {ROUTES} are.")
        except TimeoutError:
            refusal = Refused(408, f"The message did not come within {self._patience:g} seconds.")
        body = self._refusal(refusal)
        return web.json_response(body, status=body["status"])

    async def _sent(self, request: web.Request, sending: Awaitable[None]) -> bool:
        """Whether a client takes an answer; one that does not read is disconnected."""
        try:
            async with asyncio.timeout(self._patience):
                await sending
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()  # closing would wait until what was sent is read
            return False
        return True

    def _refusal(self, error: GraftError) -> dict[str, Any]:
        self._batcher.refused()
        return {"error": str(error), "status": error.status if isinstance(error, Refused) else 400}

    async def _answer(self, text: bytes | str) -> dict[str, Any]:
        actions, version = await self._batcher.decide(read_request(text, self._batcher.model))
        return {"action": actions, "model": version}

    async def _decide(self, request: web.Request) -> web.Response:
        async with asyncio.timeout(self._patience):
            body = await request.read()
        return web.json_response(await self._answer(body))

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        """One answer to each message, in order; the next message is read when the answer is on its way."""
        socket = web.WebSocketResponse(max_msg_size=self._max_bytes, compress=False, heartbeat=2 * self._patience)
        await socket.prepare(request)
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            try:
                answer = await self._answer(message.data)
            except GraftError as error:
                answer = self._refusal(error)
            if not await self._sent(request, socket.send_str(json.dumps(answer))):
                break
        return socket

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "model": self._batcher.model.version})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({**self._batcher.stats(), "clients": self._open, "clients_limit": CLIENTS})

    async def _contract(self, _: web.Request) -> web.Response:
        model = self._batcher.model
        actions = model.schemas.action
        said = {
            "inputs": [port.to_json() for port in model.ports],
            "outputs": [action_port("action", actions).to_json()],
        }
        return web.json_response({**said, "actions": actions.to_json(), "model": model.version})

    async def _swap(self, _: web.Request) -> web.Response:
        return web.json_response({"model": await self._batcher.swap()})


async def serve(server: Server, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; raises GraftError where the port is not free."""
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise GraftError(f"--host {host} --port {port} cannot be served ({error.strerror}).") from error
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows raises KeyboardInterrupt instead
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        say(f"http://{host}:{runner.addresses[0][1]}")
        await stop.wait()
    finally:
        await runner.cleanup()
