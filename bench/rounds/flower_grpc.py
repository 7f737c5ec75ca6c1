"""Flower's leanest path: `start_server`, and `start_client` in a process for each agent."""

import json
from pathlib import Path

from bench.rounds import certificates, line
from bench.rounds.ports import free_port
from bench.rounds.processes import ROOT, Processes
from bench.rounds.venvs import Peer
from bench.rounds.work import Figures, Work

FLOWER = Peer("flwr", "1.42.0", unbound=("certifi",), companions=("grpcio", "numpy"))
PROGRAMS = ROOT / "bench" / "peers"


def run(work: Work) -> Figures:
    """Return Flower's figures; it stores nothing."""
    python, port, times = FLOWER.program("python"), free_port(), work.folder / "times"
    files = certificates.issue(work.folder) if work.network == "tls" else None
    ca_file = [files.authority] if files else []
    server = {
        "address": f"127.0.0.1:{port}",
        "megabytes": work.megabytes,
        "agents": work.agents,
        "rounds": work.rounds + 1,
        "times": str(times),
        "certificates": [str(files.authority), str(files.chain), str(files.key)] if files else None,
    }
    with Processes(work.folder, environment(work.folder)) as processes:
        processes.start("server", [python, PROGRAMS / "flower_server.py", json.dumps(server)])
        processes.wait_for_line("server", "gRPC server running")
        for number, its_port in enumerate(line.ports_to(processes, work, port)):
            program = [python, PROGRAMS / "flower_client.py", f"127.0.0.1:{its_port}", str(number)]
            processes.start(f"client-{number}", [*program, *ca_file])
        return processes.timed(work, times)


def environment(folder: Path) -> dict[str, str]:
    """Return variables under which Flower tells nobody of itself, and leaves the user's folder alone."""
    return {**FLOWER.environment(), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(folder)}
