"""Hostile connections to the port of a real daemon, which must go on serving everybody else.

    python -m fuzz.daemon INPUTS SEED

An input is one HTTP request, handshake, WebSocket frame or message. After each batch the daemon
must answer `/healthz` and serve an agent of good manners a whole round, its log must have no
traceback, and its memory must be below a bound.
"""

import asyncio
import collections
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, get_args

import psutil

from fl_main.agent import Agent
from fl_main.aggregator.operator import Order
from fl_main.aggregator.tokens import operator_token
from tests.system.daemons import DaemonProcess

from . import hostile, wire

AT_ONCE = 16  # connections
PATIENCE_S = 30.0  # for an end that takes a moment on an idle machine
MAX_GROWTH_MB = 256
BATCH = 5_000
RUNS: list[dict[str, Any]] = [
    {
        "name": hostile.RUN,
        "round": {
            **{"min_agents": 1, "min_updates": 1, "quorum": 0.001, "deadline_s": 2.0, "rejoin_s": 0.0},
            "max_failed_rounds": 1 << 60,
        },
        "end": {"rounds": 1 << 60},
        "evaluate": {"every": 0},
    },
    {"name": "steered", "end": {"rounds": 1 << 60}},
]
SETTINGS: dict[str, Any] = {
    "limits": {"join_s": 0.5, "ping_interval_s": 1.0, "ping_timeout_s": 3.0, "model_bytes": 1 << 20},
}


class Connection:
    """One connection to the daemon, that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: Random) -> None:
        self._reader = reader
        self._writer = writer
        self._rng = rng

    async def say(self, data: bytes) -> None:
        """Send bytes: at once, or in two parts, or one by one."""
        parts = [data]
        if self._rng.random() < 0.1:
            place = self._rng.randrange(len(data) + 1)
            parts = [data[:place], data[place:]]
        elif self._rng.random() < 0.02 and len(data) < 400:
            parts = [bytes([byte]) for byte in data]
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()

    async def tasks(self) -> list[str]:
        """Return the tasks that the daemon gives, if it gives any soon."""
        try:
            async with asyncio.timeout(0.05):
                heard = await self._reader.read(1 << 16)
                heard += await self._reader.read(1 << 16)
        except TimeoutError:
            heard = b""
        return [found.decode() for found in re.findall(rb"task_id[\xa0-\xdb].?([0-9a-f]{16,64})", heard)]

    async def heard(self, half_closed: float) -> bytes:
        """Say that nothing more comes, or say nothing; return all that the daemon says to the end."""
        if self._rng.random() < half_closed:
            self._writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    async def upgraded(self) -> None:
        """Become a WebSocket connection."""
        self._writer.write(wire.handshake())
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def cut(self) -> None:
        """End it without a word."""
        self._writer.transport.abort()


class Attack:
    """What is said to one daemon.

    Attributes:
        outcomes: How often each kind of connection ended in which way.
        said: How many inputs went out.
    """

    def __init__(self, port: int, token: str, rng: Random) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.said = 0
        self._begun: set[str] = set()
        self._port = port
        self._token = token
        self._rng = rng

    async def batch(self, inputs: int) -> None:
        """Send about so many inputs over several connections at once."""
        end = self.said + inputs

        async def keep_on() -> None:
            while self.said < end:
                await self._connect()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(keep_on())

    async def _connect(self) -> None:
        kinds: dict[str, Callable[[Connection], Any]] = {
            "http": self._http,
            "handshake": self._handshake,
            "frames": self._frames,
            "agent": self._agent,
            "operator": self._operator,
        }
        if set(kinds) - self._begun:  # one of each, before chance decides
            kind = next(kind for kind in kinds if kind not in self._begun)
            self._begun.add(kind)
        else:
            [kind] = self._rng.choices(list(kinds), [25, 20, 20, 30, 5])
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self._port), self._rng)
        try:
            await kinds[kind](connection)
            if self._rng.random() < 0.1:
                outcome = "cut by us"
            else:
                is_http = kind in ("http", "handshake")
                outcome = _outcome(await connection.heard(0.5 if is_http else 0.97), is_http=is_http)
        except TimeoutError:
            raise AssertionError(f"{kind}: the daemon let a connection hang") from None
        except OSError:
            outcome = "cut off"
        finally:
            connection.cut()
        self.outcomes[f"{kind}: {outcome}"] += 1

    async def _say(self, connection: Connection, data: bytes) -> None:
        self.said += 1
        await connection.say(data)

    async def _http(self, connection: Connection) -> None:
        for _ in range(self._rng.choice([1, 1, 1, 2, 5])):
            await self._say(connection, wire.http(self._rng))

    async def _handshake(self, connection: Connection) -> None:
        await self._say(connection, wire.handshake(self._rng))
        if self._rng.random() < 0.3:
            await self._say(connection, wire.broken_frame(self._rng))

    async def _frames(self, connection: Connection) -> None:
        await connection.upgraded()
        for _ in range(self._rng.choice([1, 2, 10])):
            await self._say(connection, wire.broken_frame(self._rng))

    async def _agent(self, connection: Connection) -> None:
        """Join, rightly or nearly so, and say what agents say, in any order."""
        await connection.upgraded()
        agent_id = f"peer{self._rng.randrange(200)}"
        join = hostile.right("join", agent_id=agent_id, name=agent_id, instance_id=str(self.said), rows=None)
        if self._rng.random() < 0.1:
            join = hostile.made_wrong(self._rng, join)
        await self._message(connection, hostile.packed(join))
        tasks = await connection.tasks() if self._rng.random() < 0.2 else []
        for _ in range(self._rng.choice([1, 3, 10, 30])):
            await self._message(connection, self._work(tasks))

    def _work(self, tasks: list[str]) -> bytes:
        """Return what an agent with these tasks might say, right or wrong."""
        kinds = (
            ["offer", "chunk", "decline"] if tasks else ["offer", "fetch", "chunk", "decline", "ping", "pong"]
        )
        if self._rng.random() < 0.2:
            return hostile.frame(self._rng, [*kinds, "leave", "join"])
        task_id = self._rng.choice([*tasks, *tasks, hostile.TASK])
        kind = self._rng.choice(kinds)
        names = {"chunk": {"transfer": f"{task_id}/weights"}, "offer": {"task_id": task_id}}
        fields = hostile.right(kind, **names.get(kind, {}))
        if self._rng.random() < 0.2:
            fields = hostile.made_wrong(self._rng, fields)
        return hostile.packed(fields)

    async def _operator(self, connection: Connection) -> None:
        """Say the right word, and ask for what is wrong; or the wrong one."""
        await connection.upgraded()
        token = (
            self._token if self._rng.random() < 0.8 else self._rng.choice(["", "wrong", "ü" * 9, "x" * 2000])
        )
        await self._message(connection, hostile.packed(hostile.right("operate", token=token)))
        for number in range(1, self._rng.choice([2, 4, 10])):
            order = self._rng.choice(get_args(Order))
            run = self._rng.choice(["steered", "made1", "nobody", ""])
            ask: Any = hostile.right(
                "ask", number=number, order=order, run=run, about=self._rng.choice(["", "r", "peer1", "x"])
            )
            if self._rng.random() < 0.5:
                ask = hostile.made_wrong(self._rng, ask)
            if isinstance(ask, dict) and ask.get("run") == hostile.RUN:
                continue  # the agent of good manners takes part in it
            await self._message(connection, hostile.packed(ask))

    async def _message(self, connection: Connection, message: bytes) -> None:
        await self._say(connection, wire.frame(message))


def _outcome(answer: bytes, *, is_http: bool) -> str:
    """Return how the daemon answered: the status, or the code of its last close frame."""
    if is_http and (status := re.match(rb"HTTP/1.1 (\d+)", answer)):
        return f"HTTP {status[1].decode()}"
    if close := re.search(rb"\x88[\x02-\x7d]([\x03-\x0f].)(?:(?!\x88).)*$", answer, re.DOTALL):
        return f"closed {int.from_bytes(close[1])}"
    return "ended without a code" if answer else "ended without a word"


class Watch:
    """Looks after each batch whether the daemon is well.

    Attributes:
        memory_mb: Of its process, at the beginning and after each batch.
    """

    def __init__(self, daemon: DaemonProcess, folder: Path) -> None:
        self._daemon = daemon
        self._folder = folder
        self._process = psutil.Process(daemon.pid)
        self._read = 0
        self.memory_mb = [self._memory()]
        self.rounds = 0

    def _memory(self) -> int:
        return int(self._process.memory_info().rss) >> 20

    async def look(self) -> None:
        """Check health, log and memory, and take part in a round.

        Raises:
            AssertionError: If something is not as it should be.
        """
        assert self._daemon.is_running, "the daemon ended"
        assert b"200 OK" in await self._get("/healthz")
        assert b"200 OK" in await self._get("/readyz")
        await asyncio.wait_for(asyncio.to_thread(self._take_part), PATIENCE_S)
        self._read_log()
        self.memory_mb.append(self._memory())
        assert self.memory_mb[-1] < self.memory_mb[0] + MAX_GROWTH_MB, self.memory_mb

    async def _get(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._daemon.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        writer.close()
        return answer

    def _take_part(self) -> None:
        """Train once, and have it accepted."""
        with Agent(
            self._daemon.url,
            hostile.RUN,
            "honest",
            initial_weights=hostile.WEIGHTS,
            state_folder=self._folder,
            progress=False,
        ) as agent:
            task = next(iter(agent.tasks()))
            receipt = task.submit(hostile.WEIGHTS, num_examples=5)
        assert receipt
        assert receipt.verdict == "accepted", receipt
        self.rounds += 1

    def _read_log(self) -> None:
        with open(self._daemon.log, encoding="utf-8", errors="replace") as log:
            log.seek(self._read)
            news = log.read()
            self._read = log.tell()
        for sign in ("Traceback", "bug of ours"):
            if sign in news:
                place = news.index(sign)
                raise AssertionError(news[max(0, place - 1000) : place + 3000])


async def fuzz(inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fuzz one daemon with so many inputs; return what happened."""
    database = {"folder": str(folder / "models"), "retention": {"keep": "rounds", "rounds": 1}}
    daemon = DaemonProcess(folder, RUNS, database=database, **SETTINGS)
    try:
        daemon.started()
        watch = Watch(daemon, folder / "honest")
        attack = Attack(daemon.port, operator_token(daemon.models), Random(seed))
        begun = time.monotonic()
        await watch.look()  # which gives the run its first model
        while attack.said < inputs:
            await attack.batch(min(BATCH, inputs - attack.said))
            await watch.look()
        seconds = time.monotonic() - begun
        daemon.stop()
    finally:
        daemon.kill()
    return {
        **{"engine": "random", "inputs": attack.said, "seconds": seconds, "rounds": watch.rounds},
        **{"memory_mb": watch.memory_mb, "outcomes": dict(attack.outcomes.most_common())},
    }


def main(inputs: int, seed: int) -> None:
    """Fuzz a daemon and print the facts as JSON."""
    logging.getLogger("fl_main.agent").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(fuzz(inputs, seed, Path(folder)))))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
