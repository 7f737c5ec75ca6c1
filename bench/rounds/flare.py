"""NVIDIA FLARE, provisioned: a server, a client for each agent, and a job that runs its FedAvg."""

import json
from pathlib import Path
from typing import Any

from bench.rounds import line
from bench.rounds.flower_grpc import PROGRAMS
from bench.rounds.ports import free_port
from bench.rounds.processes import Processes
from bench.rounds.venvs import Peer
from bench.rounds.work import Figures, Work

FLARE = Peer("nvflare", "2.9.0", companions=("numpy",))
ADMIN = "admin@example.org"
KITS = Path("project", "bench", "prod_00")  # where its provisioning puts them
BUILDERS: list[dict[str, Any]] = [
    {
        "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
        "args": {"template_file": ["master_template.yml"]},
    },
    {
        "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
        "args": {"config_folder": "config"},
    },
    {"path": "nvflare.lighter.impl.cert.CertBuilder"},
    {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
]


def run(work: Work) -> Figures:
    """Return FLARE's figures; nothing is stored, and unlike its default nothing is encrypted on loopback."""
    port, times = free_port(), work.folder / "times"
    kits = work.folder / KITS
    with Processes(work.folder, {**FLARE.environment(), "HOME": str(work.folder)}) as processes:
        _provision(processes, work, port)
        _start(processes, "server", kits / "server", "server.server_train", "fed_server.json")
        processes.wait_for_line("server", "Server started")
        for number in range(work.agents):
            name = f"site-{number}"
            _start(processes, name, kits / name, "client.client_train", "fed_client.json", f"uid={name}")
        for number in range(work.agents):
            processes.wait_for_line(f"site-{number}", "Successfully registered client")
        job = [str(kits / ADMIN), ADMIN, str(work.megabytes), str(work.agents), str(work.rounds + 1)]
        processes.start("job", [FLARE.program("python"), PROGRAMS / "flare_job.py", *job, times])
        return processes.timed(work, times)


def _start(processes: Processes, name: str, kit: Path, module: str, settings: str, *more: str) -> None:
    """Start a part of FLARE as its own start.sh does."""
    program = [FLARE.program("python"), "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", kit]
    processes.start(
        name,
        [*program, "-s", settings, "--set", "secure_train=true", "org=bench", "config_folder=config", *more],
    )


def _provision(processes: Processes, work: Work, port: int) -> None:
    """Let FLARE write keys and settings of all parts."""
    clients = [
        {
            "name": f"site-{number}",
            "type": "client",
            "org": "bench",
            "connect_to": {"host": "localhost", "port": its_port},
        }
        for number, its_port in enumerate(line.ports_to(processes, work, port))
    ]
    server = {"name": "server", "type": "server", "org": "bench", "fed_learn_port": port}
    admin = {"name": ADMIN, "type": "admin", "org": "bench", "role": "project_admin"}
    project = {
        "api_version": 3,
        "name": "bench",
        "description": "rounds of FedAvg",
        "connection_security": "tls" if work.network == "tls" else "clear",
        "participants": [{**server, "default_host": "localhost"}, admin, *clients],
        "builders": BUILDERS,
    }
    file = work.folder / "project.json"  # which is YAML, too
    file.write_text(json.dumps(project), "utf-8")
    nvflare = FLARE.program("nvflare")
    processes.finish(
        "provision", [nvflare, "provision", "-p", file, "-w", work.folder / "project", "--force"]
    )
