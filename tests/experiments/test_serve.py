"""The server: right answers, clear refusals, several clients in one pass, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from itertools import cycle, pairwise
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from support.export_cases import ACTS, BOUNDED, V, network_of, recorded, varied, with_masks
from support.tiny_tasks import TASK, discrete

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.parity import tied
from graft.agents.serving.model import Model
from graft.experiments import serve
from graft.experiments.serving import batcher as module
from graft.experiments.serving import server
from graft.experiments.serving.batcher import ROWS, Batcher
from graft.experiments.serving.requests import read_request
from graft.experiments.serving.server import Server

ROOT = Path(__file__).parents[2]


def saved(network, folder):
    Checkpoint.of(network, TASK).save(folder)
    return folder


@pytest.fixture(scope="module")
def agent():
    return network_of(V, ACTS)


@pytest.fixture(scope="module")
def folder(agent, tmp_path_factory):
    return saved(agent, tmp_path_factory.mktemp("serve") / "checkpoint")


@pytest.fixture(scope="module")
def loaded(folder):
    return Model.of(folder)


@pytest.fixture
def batcher(loaded, monkeypatch):
    """Makes batchers of the loaded model."""

    def make(path="unread", limit=64):
        with monkeypatch.context() as patch:
            patch.setattr(Model, "of", lambda _: loaded)
            return Batcher(path, limit)

    return make


@asynccontextmanager
async def served(batcher, max_bytes=4000, patience=5.0):
    async with TestClient(TestServer(Server(batcher, max_bytes, patience).app)) as client:
        yield client


async def asked(client, **inputs):
    async with client.post("/decide", json=inputs) as answer:
        return answer.status, await answer.json()


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


BAD = [
    (b"", "no JSON"),
    (b"[" * 3000, "no JSON"),
    (b"\xff\xfe\xff", "no JSON"),
    (b"[1]", "a JSON list; an object with obs"),
    (b"{}", "lacks obs"),
    (b'{"ob": 1}', "Unknown input 'ob'; allowed: obs. Did you mean 'obs'?"),
    (b'{"obs": 3}', "has the shape []; an array of numbers of shape [N, 4] is needed"),
    (b'{"obs": []}', "has the shape [0]"),
    (b'{"obs": [[1, 2, 3]]}', "has the shape [1, 3]"),
    (b'{"obs": [[1, 2, 3, 4], [1]]}', "rows of different lengths"),
    (b'{"obs": [[1, 2, 3, "4"]]}', "something else than numbers"),
    (b'{"obs": [[1, 2, 3, null]]}', "something else than numbers"),
    (b'{"obs": [[1, 2, 3, %s]]}' % (b"9" * 400), "a number that is too large"),
    (b'{"obs": ["1234"]}', "has the shape [1]"),
    (b'{"obs": [[1, 2, 3, [4]]]}', "something else than numbers"),
    (b'{"obs": [[1, 2, NaN, 4]]}', "'obs'[0, 2] is nan; a finite number of float32 is needed"),
    (b'{"obs": [[1, 2, 3, 1e300]]}', "'obs'[0, 3] is 1e+300"),
]


def test_bad_messages_are_answered_by_a_sentence_and_good_ones_by_the_networks_actions(agent, batcher):
    states = recorded(agent, 20)

    async def talk():
        async with served(batcher()) as client, client.ws_connect("/ws") as ws:
            for text, words in BAD:
                async with client.post("/decide", data=text) as answer:
                    found = await answer.json()
                    assert (answer.status, found["status"]) == (400, 400)
                    assert words in found["error"]
                await ws.send_bytes(text)
                assert await ws.receive_json() == found
            for send, status in (("GET", 405), ("POST", 413)):
                async with client.request(send, "/decide", data=b" " * 5000) as answer:
                    assert (answer.status, (await answer.json())["status"]) == (status, status)
            async with client.get("/nothing") as answer:
                assert "GET /nothing is not allowed; POST /decide, " in (await answer.json())["error"]
            good = {"obs": states.observations.tolist()}
            status, found = await asked(client, **good)
            assert status == 200
            assert found["action"] == states.actions.tolist()
            await ws.send_json(good)
            assert await ws.receive_json() == found
            async with client.get("/stats") as answer:
                told = await answer.json()
            assert (told["requests"], told["npcs"], told["refused"]) == (2, 40, 2 * len(BAD) + 3)
            assert told["p99_ms"] >= told["p50_ms"] > 0
            await ws.send_str(" " * 5000)
            assert (await ws.receive()).data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"obs": [[0] * 4] * (ROWS + 1), "action_masks": [[1] * 3] * (ROWS + 1)}, f"from 1 to {ROWS}"),
        ({"obs": [[0] * 4] * 2, "action_masks": [[1] * 3]}, "{'obs': 2, 'action_masks': 1} rows"),
        ({"obs": [[0] * 4], "action_masks": [[1, 0.5, 1]]}, "'action_masks'[0, 1] is 0.5; 0 or 1 is needed"),
        ({"obs": [[0] * 4], "action_masks": [[0] * 3]}, "allows no action"),
        ({"obs": [[0] * 4]}, "lacks action_masks"),
    ],
)
def test_masks_are_checked(given, words):
    schemas = network_of(with_masks(V, ACTS), ACTS).schemas
    with pytest.raises(ValueError, match=re.escape(words)):
        read_request(json.dumps(given), Model(schemas, "", "", lambda _: {}))


def test_large_messages_that_are_refused_take_neither_memory_nor_time(loaded):
    texts = ["a"] * 200 + ["x" * 500_000]  # as one array of numpy 400 MB
    for given in (json.dumps({"obs": texts}), json.dumps({"obs": [[text] * 4 for text in texts]})):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValueError, match="is needed"):
            read_request(given, loaded)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000  # kilobytes
    start = time.process_time()
    with pytest.raises(ValueError, match="349001 rows; from 1 to 4096"):
        read_request('{"obs": [' + "[]," * 349_000 + "[]]}", loaded)
    assert time.process_time() - start < 0.4


class Held:
    """A model that begins when it is told to, fails when it is told to, and counts what it was given."""

    def __init__(self, model):
        self.schemas, self.version, self.ports, self._model = model.schemas, "held", model.ports, model
        self.go, self.rows, self.begun, self.fails = threading.Event(), [], False, False

    def decide(self, inputs, rng):
        self.begun = True
        self.go.wait()
        self.rows.append(len(inputs["obs"]))
        if self.fails:
            raise RuntimeError
        return self._model.decide(inputs, rng)


def test_waiting_requests_are_decided_in_one_pass_and_no_more_wait_than_allowed(agent, batcher, loaded):
    states, held = recorded(agent, 60), Held(loaded)

    async def talk():
        own = batcher(limit=5)
        own.model = held
        async with served(own) as client:
            first = asyncio.create_task(asked(client, obs=states.observations[:1].tolist()))
            await until(lambda: held.begun)
            ends = [1, 3, 6, 10, 15, 21]
            parts = [slice(*pair) for pair in pairwise(ends)]
            tasks = [asyncio.create_task(asked(client, obs=states.observations[p].tolist())) for p in parts]
            await until(lambda: own.stats()["queue"] == 5)
            status, found = await asked(client, obs=states.observations[:1].tolist())
            assert (status, found["error"][:29]) == (503, "5 requests wait already, and ")
            held.go.set()
            assert (await first)[1]["action"] == states.actions[:1].tolist()
            for part, task in zip(parts, tasks, strict=True):
                assert (await task)[1]["action"] == states.actions[part].tolist()
            assert held.rows == [1, 20]
            held.fails = True
            assert (await asked(client, obs=[[0, 0, 0, 0]]))[1]["error"] == "The model failed (RuntimeError)."
            held.fails = False
            assert (await asked(client, obs=[[0, 0, 0, 0]]))[0] == 200

    asyncio.run(talk())


def test_a_request_that_the_model_fails_on_fails_no_other_one_of_its_pass(batcher, loaded):
    held = Held(loaded)

    def decide(inputs, rng):
        if (inputs["obs"] > 100).any():
            raise ValueError
        return Held.decide(held, inputs, rng)

    async def talk():
        own = batcher()
        own.model = held
        async with served(own) as client:
            first = asyncio.create_task(asked(client, obs=[[0] * 4]))
            await until(lambda: held.begun)
            tasks = [asyncio.create_task(asked(client, obs=[[number] * 4])) for number in (1, 200, 2)]
            await until(lambda: own.stats()["queue"] == 3)
            held.decide = decide
            held.go.set()
            assert [(await task)[0] for task in (first, *tasks)] == [200, 200, 500, 200]

    asyncio.run(talk())


class Fatal(BaseException):
    """Ends the task that decides."""


def test_requests_are_answered_after_an_error_outside_of_the_model_and_when_deciding_has_ended(batcher, monkeypatch):
    async def talk():
        own = batcher()
        async with served(own) as client:
            with monkeypatch.context() as patch:
                patch.setattr(module.np, "concatenate", lambda _: [][0])
                assert await asked(client, obs=[[0] * 4]) == (
                    500,
                    {"error": "The model failed (IndexError).", "status": 500},
                )
            assert (await asked(client, obs=[[0] * 4]))[0] == 200

            async def fatal(_):
                raise Fatal

            monkeypatch.setattr(own, "_pass", fatal)
            for _ in range(2):
                status, found = await asyncio.wait_for(asked(client, obs=[[0] * 4]), 5)
                assert (status, found["error"][:33]) == (503, "The server has stopped deciding; ")
            async with client.get("/health") as answer:
                assert answer.status == 503

    asyncio.run(talk())


def test_every_error_is_json(batcher, monkeypatch, tmp_path, capsys):
    async def talk():
        async with served(batcher(tmp_path / "none")) as client, client.ws_connect("/ws") as ws:
            async with client.post("/decide", data=b"abcde", headers={"Content-Encoding": "gzip"}) as answer:
                assert (answer.status, (await answer.json())["error"][:27]) == (400, "The message cannot be read ")
            async with client.get("/ws") as answer:
                assert (answer.status, "allowed" in (await answer.json())["error"]) == (400, False)
            async with client.post("/swap") as answer:
                assert (answer.status, str(tmp_path) in (await answer.text())) == (500, False)
            assert str(tmp_path) in capsys.readouterr().err
            monkeypatch.setattr(server, "read_request", lambda *_: [][0])
            found = {"error": "The server failed (IndexError).", "status": 500}
            assert await asked(client, obs=[[0] * 4]) == (500, found)
            await ws.send_str("{}")
            assert await ws.receive_json() == found

    asyncio.run(talk())


def test_the_contract_says_whether_actions_are_drawn(monkeypatch):
    model = Model(network_of(V, BOUNDED).schemas, "x", "mean + noise", lambda _: {})
    monkeypatch.setattr(Model, "of", lambda _: model)

    async def talk():
        for rng, sampling, meaning in (
            (None, None, "the mean action"),
            (np.random.default_rng(0), "mean + noise", "an action that is drawn"),
        ):
            async with served(Batcher(Path("unread"), 1, rng)) as client, client.get("/contract") as answer:
                told = await answer.json()
                assert told["sampling"] == sampling
                assert told["outputs"][0]["meaning"].startswith(meaning)

    asyncio.run(talk())


def test_a_row_without_finite_outputs_is_refused_alone(batcher, loaded):
    async def talk():
        own, run = batcher(), loaded.run

        def overflowing(inputs):
            return {
                name: np.where(inputs["obs"][:, :1] > 1e30, np.nan, v) if v.ndim > 1 else v
                for name, v in run(inputs).items()
            }

        own.model = Model(loaded.schemas, "x", "", overflowing)
        async with served(own) as client:
            both = await asyncio.gather(asked(client, obs=[[1e38] * 4]), asked(client, obs=[[0.5] * 4]))
            assert [status for status, _ in both] == [422, 200]

    asyncio.run(talk())


def test_a_model_is_swapped_for_what_lies_there_now_or_refused(agent, batcher, tmp_path):
    states, new = recorded(agent, 20), varied(network_of(V, ACTS), 5)
    path = saved(new, tmp_path / "checkpoint")

    async def talk():
        async with served(batcher(path)) as client:
            old = await asked(client, obs=states.observations.tolist())
            assert old[1]["action"] == states.actions.tolist()
            async with client.post("/swap") as answer:
                version = (await answer.json())["model"]
            fresh = await asked(client, obs=states.observations.tolist())
            expected = new.act(states.observations, None, deterministic=True).tolist()
            assert fresh[1] == {"action": expected, "model": version}
            assert expected != states.actions.tolist()
            saved(network_of(V, discrete("up", "act")), path)
            async with client.post("/swap") as answer:
                assert "other actions (names: -down) than" in (await answer.json())["error"]
            assert await asked(client, obs=states.observations.tolist()) == fresh

    asyncio.run(talk())


def test_bodies_that_do_not_come_and_too_many_clients_are_refused(batcher, monkeypatch):
    async def talk():
        async with served(batcher(), patience=0.2) as client:
            reader, writer = await asyncio.open_connection(client.host, client.port)
            writer.write(b"POST /decide HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            head = await reader.readline()
            assert head.startswith(b"HTTP/1.1 408 ")
            writer.close()
            monkeypatch.setattr(server, "CLIENTS", 1)
            async with client.ws_connect("/ws"):
                status, found = await asked(client, obs=[[0] * 4])
            assert (status, found["error"]) == (503, "1 requests are open, and no more are taken; try again.")

    asyncio.run(talk())


def test_connections_without_a_request_are_closed_and_no_more_are_taken_than_allowed(batcher):
    async def talk():
        own = Server(batcher(), 4000, patience=0.3)
        async with server.listening(own, "127.0.0.1", 0, most=3) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            idle[0][1].write(b"GET /health HT")
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):  # reset
                assert await asyncio.wait_for(reader.read(), 0.2) == b""
            writer.close()
            for reader, writer in idle:
                assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/health") as answer,
            ):
                assert answer.status == 200

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("files", "found"), [((300, 300), (150, 30)), ((1024, 1024), (512, 102)), ((256, 4096), (2048, 102))]
)
def test_open_files_limit_the_connections(monkeypatch, files, found):
    monkeypatch.setattr(resource, "getrlimit", lambda _: files)
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert server.most_connections() == found
    assert raised == [(min(2560, files[1]), files[1])]


def test_a_websocket_whose_message_does_not_end_is_closed_and_pings_keep_one_open(batcher, monkeypatch):
    monkeypatch.setattr(server, "IDLE", 1)

    async def talk():
        async with served(batcher(), 2**20, patience=0.4) as client, client.ws_connect("/ws") as ws:
            reader, writer = await asyncio.open_connection(client.host, client.port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x81\xff" + (2**19).to_bytes(8, "big") + bytes(4))
            end = time.monotonic() + 10
            while not reader.at_eof() and time.monotonic() < end:
                writer.write(b" ")
                await ws.ping()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.1)
            assert time.monotonic() < end
            writer.close()
            await ws.send_json({"obs": [[0] * 4]})
            assert "action" in await ws.receive_json()

    asyncio.run(talk())


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MESSAGE = json.dumps({"obs": [[0] * 4] * 2000}).encode()
FRAME = b"\x81\xfe" + len(MESSAGE).to_bytes(2, "big") + bytes(4) + MESSAGE  # text, masked by zeros
PINGS = 100 * (b"\x89\xfd" + bytes(4) + 125 * b" ")  # masked by zeros
PIPELINED = 20 * b"GET /contract HTTP/1.1\r\nHost: x\r\n\r\n"


async def never_reads(host, port, begin, again):
    """Send until the server hangs up."""
    loop, own = asyncio.get_running_loop(), socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)
    await loop.sock_connect(own, (host, port))
    with own, suppress(ConnectionError):
        await loop.sock_sendall(own, begin)
        while True:
            await loop.sock_sendall(own, again)


@pytest.mark.slow
@pytest.mark.parametrize(("begin", "again"), [(UPGRADE, FRAME), (UPGRADE, PINGS), (PIPELINED, PIPELINED)])
def test_a_client_that_never_reads_is_disconnected_and_others_are_served(batcher, begin, again):
    async def talk():
        async with served(batcher(), 2**20, patience=1.0) as client:
            deaf = asyncio.create_task(never_reads(client.host, client.port, begin, again))
            for _ in range(100):
                assert (await asked(client, obs=[[0, 0, 0, 0]]))[0] == 200
                await asyncio.sleep(0.01)
            await asyncio.wait_for(deaf, 60)
            async with client.get("/stats") as answer:
                assert (await answer.json())["clients"] == 1  # this one

    asyncio.run(talk())


def test_bad_options_end_with_2(tmp_path, capsys, folder):
    assert serve.main([str(tmp_path / "none")]) == 2
    assert "There is no checkpoint at" in capsys.readouterr().err
    assert serve.main([str(folder), "--queue", "0"]) == 2
    assert serve.main([str(folder), "--port", "70000"]) == 2
    assert serve.main([str(folder), "--seed", "3"]) == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert serve.main([str(folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be served (" in capsys.readouterr().err


def resident(pid):
    """Megabytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


TEXTS = json.dumps({"obs": ["a"] * 200 + ["x" * 60_000]}).encode()


async def never_read(host, port, again):
    """One client after the other that never reads."""
    while True:
        await never_reads(host, port, UPGRADE, again)


class Crowd:
    """Clients that ask for known states and compare every answer with what the model that gave it has to play."""

    def __init__(self, url, states, answers):
        self.url, self.states, self.answers, self.end = url, states, answers, float("inf")
        self.wrong, self.times, self.versions, self.statuses = 0, [], set(), []

    def judge(self, found, rows):
        self.versions.add(found["model"])
        self.wrong += found["action"] != self.answers[found["model"]][rows].tolist()

    async def client(self, session, number):
        """A WebSocket where ``number`` is odd, HTTP where it is even."""
        rng = np.random.default_rng(number)
        async with session.ws_connect(f"{self.url}/ws") as ws:
            while time.monotonic() < self.end:
                rows = rng.integers(len(self.states), size=rng.integers(1, 20))
                message, start = {"obs": self.states[rows].tolist()}, time.perf_counter()
                if number % 2:
                    await ws.send_json(message)
                    found = await ws.receive_json()
                else:
                    async with session.post(f"{self.url}/decide", json=message) as answer:
                        found = await answer.json()
                self.times.append(time.perf_counter() - start)
                self.judge(found, rows)
                await asyncio.sleep(0.2)

    async def nuisance(self, session):
        """Malformed and oversized messages."""
        for text, _ in cycle([(b" " * 70_000, ""), (TEXTS, ""), *BAD]):
            async with session.post(f"{self.url}/decide", data=text) as answer:
                self.statuses.append(answer.status)
            async with session.ws_connect(f"{self.url}/ws") as ws:
                await ws.send_bytes(text)
                await ws.receive()
            if time.monotonic() > self.end:
                break
            await asyncio.sleep(0.02)

    async def run(self, clients, swap):
        host, port = self.url.removeprefix("http://").split(":")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            deaf = [asyncio.create_task(never_read(host, int(port), again)) for again in (FRAME, FRAME, PINGS)]
            both = [self.nuisance(session), swap(session), *(self.client(session, i) for i in range(clients))]
            await asyncio.gather(*both)
            for task in deaf:
                task.cancel()
            async with session.get(f"{self.url}/stats") as answer:
                return await answer.json()


def crowded(folder, clients, seconds):
    """Serve ``folder`` in a process to a crowd, swapping its model three times; returns what was seen."""
    old, new = (varied(network_of(V, ACTS), seed) for seed in (1, 2))
    versions = [Checkpoint.of(n, TASK).save(folder) for n in (new, old)][::-1]
    states = recorded(old, 600)
    clear = ~(tied(states.scores, ACTS) | tied(recorded(new, 600).scores, ACTS))
    states = states.observations[clear]
    answers = {v: n.act(states, None, deterministic=True).numpy() for v, n in zip(versions, (old, new), strict=True)}
    words = [sys.executable, "-m", "graft", "serve", str(folder), "--port", "0", "--max-bytes", "65536"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        url = re.search(r"http://\S+(?=;)", process.stdout.readline())[0]
        crowd, memory = Crowd(url, states, answers), []

        async def swap(session):
            crowd.end = time.monotonic() + seconds
            for step in range(1, 21):
                await asyncio.sleep(max(0, crowd.end - (20 - step) * seconds / 20 - time.monotonic()))
                if step > 3:  # warm
                    memory.append(resident(process.pid))
                if step in (8, 11, 14):
                    saved(old if step == 11 else new, folder)
                    async with session.post(f"{url}/swap") as answer:
                        assert answer.status == 200

        try:
            told = asyncio.run(crowd.run(clients, swap))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    return crowd, told, memory


@pytest.mark.slow
def test_200_clients_get_right_answers_while_others_misbehave_and_a_model_is_swapped(tmp_path):
    crowd, told, memory = crowded(tmp_path / "checkpoint", 200, 12)
    p50, p99 = 1000 * np.quantile(crowd.times, (0.5, 0.99))
    print(f"{len(crowd.times)} answers, p50 {p50:.0f} ms, p99 {p99:.0f} ms at the client; {told}; {memory} MB")
    assert crowd.wrong == 0
    assert len(crowd.versions) == 2
    assert set(crowd.statuses) == {400, 413}
    assert told["requests"] >= len(crowd.times) > 200  # those of clients that never read are counted, too
    assert told["passes"] < told["requests"] / 2
    third = len(memory) // 3
    assert np.median(memory[-third:]) < np.median(memory[:third]) + 30  # a second model while one is loaded
