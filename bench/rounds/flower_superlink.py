"""Flower's SuperLink with its state in memory, a SuperNode for each agent, and an app run by `flwr run`."""

import shutil
from pathlib import Path

from bench.rounds import certificates, line
from bench.rounds.certificates import Certificates
from bench.rounds.flower_grpc import FLOWER, PROGRAMS, environment
from bench.rounds.ports import free_port
from bench.rounds.processes import Processes
from bench.rounds.work import Figures, Work

APP = PROGRAMS / "flower_app"


def run(work: Work) -> Figures:
    """Return Flower's figures; apps and nodes run in subprocesses, as is its default."""
    port, times = free_port(), work.folder / "times"
    files = certificates.issue(work.folder) if work.network == "tls" else None
    _write_settings(work.folder, port, files)
    shutil.copytree(APP, work.folder / "app")  # it is built there
    with Processes(work.folder, environment(work.folder)) as processes:
        _start_link(processes, port, files)
        for number, its_port in enumerate(line.ports_to(processes, work, port)):
            _start_node(processes, number, its_port, files)
        config = f"megabytes={work.megabytes} agents={work.agents} rounds={work.rounds + 1} times='{times}'"
        flwr = [FLOWER.program("flwr"), "run", "app", "bench", "--run-config", config]
        processes.finish("flwr", flwr)
        return processes.timed(work, times)


def _start_link(processes: Processes, port: int, files: Certificates | None) -> None:
    program = [FLOWER.program("flower-superlink"), "--port", str(port)]
    secured: list[object] = ["--insecure"]
    if files:
        secured = ["--ssl-certfile", files.chain, "--ssl-keyfile", files.key]
        secured += ["--ssl-ca-certfile", files.authority]
    processes.start("server", [*program, "--disable-runtime-dependency-installation", *secured])
    processes.wait_for_line("server", "startup complete")


def _start_node(processes: Processes, number: int, port: int, files: Certificates | None) -> None:
    program = [FLOWER.program("flower-supernode"), "--superlink", f"127.0.0.1:{port}"]
    secured: list[object] = ["--root-certificates", files.authority] if files else ["--insecure"]
    own = ["--port", str(free_port()), "--node-config", f"number={number}"]
    processes.start(f"node-{number}", [*program, *own, *secured])


def _write_settings(folder: Path, port: int, files: Certificates | None) -> None:
    secured = f'root-certificates = "{files.authority}"' if files else "insecure = true"
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n{secured}\n'
    )
