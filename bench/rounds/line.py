"""Slow lines, one for each agent: `python -m bench.rounds.line PORT AGENTS` prints `ports=…`.

A line carries so many bytes per second each way, for all connections of its agent together, and
what is sent arrives some time later. It loses nothing, and knows nothing of TCP's slow start.
"""

import asyncio
import socket
import sys
from dataclasses import dataclass

from bench.rounds.processes import Processes
from bench.rounds.work import LINE_BYTES_PER_S, LINE_DELAY_S, Work

CHUNK = 1 << 16
BUFFER = 1 << 16  # of the system, for each end: what waits in it has not gone over the line

SEGMENT = 1448  # bytes of a packet, as on Ethernet


@dataclass(slots=True)
class Way:
    """One direction of a line.

    Attributes:
        free_at: Loop time from which it carries the next bytes.
    """

    free_at: float = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry what comes until its end."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_arrive(under_way, writer))
            while True:
                data = await reader.read(CHUNK)
                now = asyncio.get_running_loop().time()
                self.free_at = max(now, self.free_at) + len(data) / LINE_BYTES_PER_S
                under_way.put_nowait((self.free_at + LINE_DELAY_S, data))
                if not data:
                    return
                await asyncio.sleep(self.free_at - now)


async def _arrive(under_way: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    """Hand over what is under way when it is due."""
    while True:
        due_at, data = await under_way.get()
        await asyncio.sleep(due_at - asyncio.get_running_loop().time())
        if not data:
            writer.write_eof()
            return
        writer.write(data)
        await writer.drain()


async def open_line(target: int) -> asyncio.Server:
    """Return a line to a port; it is open until the process ends."""
    up, down = Way(), Way()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(sock=await _dialled(target), limit=CHUNK)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(up.carry(reader, far_writer))
                tasks.create_task(down.carry(far_reader, writer))
        except* ConnectionError:  # one of the ends has cut it
            pass
        writer.close()
        far_writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    _limit(listener)
    return await asyncio.start_server(connected, sock=listener, limit=CHUNK)


async def _dialled(target: int) -> socket.socket:
    dialled = socket.socket()
    dialled.setblocking(False)
    _limit(dialled)
    await asyncio.get_running_loop().sock_connect(dialled, ("127.0.0.1", target))
    return dialled


def _limit(end: socket.socket) -> None:
    """Give an end the buffer and the packets of a line: those of loopback are as large as the buffer."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)


def ports_to(processes: Processes, work: Work, target: int) -> list[int]:
    """Return where each agent dials to reach a port: the port itself, or a line of its own to it."""
    if work.network != "line":
        return [target] * work.agents
    processes.start("line", [sys.executable, "-m", "bench.rounds.line", str(target), str(work.agents)])
    return [int(port) for port in processes.wait_for_line("line", "ports=").split()]


async def _main(target: int, agents: int) -> None:
    servers = [await open_line(target) for _ in range(agents)]
    found = (str(server.sockets[0].getsockname()[1]) for server in servers)
    print(f"ports={' '.join(found)}", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
