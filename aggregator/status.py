"""What `fl status` and the live view show of a run."""

from typing import Any

from fl_main.compression.words import in_words
from fl_main.plan import rounds_wanted
from fl_main.store import RunStatus
from fl_main.why import waiting_for
from fl_main.why.agents import find_agent

from .host import RunHost


def status_of(host: RunHost) -> dict[str, Any]:
    """Return what `fl status` says of a run."""
    run, view = host.run, host.view()
    is_running = run.status is RunStatus.RUNNING
    return {
        "run": run.name,
        "run_id": run.run_id,
        "status": str(run.status),
        "phase": str(run.phase),
        "round": run.round_id,
        "step": str(run.kind) if run.kind else None,
        "rounds_done": run.rounds_done,
        "rounds": rounds_wanted(run, host.settings),
        "rollbacks": run.rollbacks,
        "run_time_s": round(view.at, 3),
        "mode": host.settings.mode,
        "travel": _travel(host),
        "staleness": host.machine.last_staleness,
        "effort": host.machine.effort_until(view.at),
        "reason": run.reason,
        "best": {
            "metric": f"{host.settings.best.source} {host.settings.best.metric}",
            "value": run.best_value,
            "model": run.best_model_id,
        },
        "waiting_for": waiting_for(view),
        "agents": [
            {
                "agent_id": agent_id,
                "name": member.record.name,
                "present": member.is_present,
                "doing": find_agent(view, agent_id).what,
                "quarantined": member.record.quarantined,
                # Run time stands still while the run does.
                "since_s": round(view.at - member.since, 1) if is_running else None,
            }
            for agent_id, member in host.machine.members.items()
        ],
    }


def _travel(host: RunHost) -> dict[str, Any]:
    """Return how weights travel, and how many bytes that makes of each set of them, once that is known."""
    machine = host.machine
    model, download = machine.layout, machine.download_codec
    return {
        "form": machine.form,
        "codec": in_words(machine.codec),
        "feeds_back": host.settings.compression.feeds_back,
        "download": in_words(download),
        "plain_bytes": model.nbytes if model else None,
        "update_bytes": machine.sent_layout.nbytes if machine.sent_layout else None,
        "download_bytes": (download.layout(model) if download else model).nbytes if model else None,
    }
