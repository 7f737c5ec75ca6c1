"""The course of a soak: all join, come and go; the run is stopped; the daemon ends; the verdict."""

import asyncio
import logging
import resource
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import IO

from bench.soak.crowd import Crowd
from bench.soak.figure import draw
from bench.soak.gauge import Gauge
from bench.soak.options import RUN, Options
from bench.soak.verdict import judged
from fl_main import __version__
from fl_main.aggregator.operator import ask
from fl_main.aggregator.tokens import operator_token
from tests.system.daemons import DaemonProcess

MORE_S = 120.0  # after the time is over, for rounds that are still missing
DESCRIPTORS = 3  # of an agent: its connection, its lock, a file for a moment


def soak(options: Options, daemon: DaemonProcess, table: IO[str] | None, figure: Path | None) -> bool:
    """Let agents come and go at a daemon that listens, and return whether all went well.

    Args:
        options: How many, for how long.
        daemon: It is stopped at the end.
        table: Where the samples go.
        figure: File that they are drawn to.
    """
    _allow_descriptors(DESCRIPTORS * options.agents + 100)
    logging.getLogger("fl_main.agent").setLevel(logging.ERROR)  # that connections break is what we do
    title = (
        f"{options.agents} agents, {options.mode}, a model of {options.megabytes:g} MB, "
        f"{options.churn:g} agents come and go per minute"
    )
    print(f"fl_main {__version__}, websockets {version('websockets')}; {title}", flush=True)
    crowd, gauge = asyncio.run(_run(options, daemon, table))
    daemon.signal(signal.SIGTERM)
    log = daemon.ended()
    if figure is not None and gauge.samples:
        figure.write_text(draw(gauge.samples, title), "utf-8")
    return _told(options, crowd, gauge, log, daemon.models)


async def _run(options: Options, daemon: DaemonProcess, table: IO[str] | None) -> tuple[Crowd, Gauge]:
    crowd = Crowd(options, daemon.url)
    gauge = Gauge(daemon, lambda: crowd.counts["updates accepted"], options.every_s, table)
    gauge.start()
    try:
        await crowd.live(_long_enough(options, gauge))
        await asyncio.to_thread(gauge.stop)
        await ask(daemon.url, operator_token(daemon.models), "stop", run=RUN)
        await crowd.end()
    finally:
        gauge.stop()
    return crowd, gauge


async def _long_enough(options: Options, gauge: Gauge) -> None:
    """Wait until the time is over, and a while for rounds on a slow machine."""
    await asyncio.sleep(60 * options.minutes)
    end = time.monotonic() + MORE_S
    while gauge.rounds < options.rounds and time.monotonic() < end:  # noqa: ASYNC110 - nobody signals it
        await asyncio.sleep(options.every_s)


def _told(options: Options, crowd: Crowd, gauge: Gauge, log: str, models: Path) -> bool:
    """Print what happened and the verdict, and return it."""
    print("\n" + ", ".join(f"{count} {what}" for what, count in sorted(crowd.counts.items())))
    rounds = f"{gauge.rounds} rounds, at least {options.rounds} are wanted"
    findings = [(rounds, gauge.rounds >= options.rounds)]
    findings += judged(gauge.samples, crowd.problems + gauge.problems, log, models, crowd.told)
    for words, is_well in findings:
        print(f"{'ok  ' if is_well else 'BAD '} {words}")
    is_good = all(is_well for _, is_well in findings)
    print("\neverything held" if is_good else "\nnot everything held", flush=True)
    return is_good


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's own limit; the daemon was started before, and has to do with the usual one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(
            f"{wanted} open files are needed, {hard} are allowed: ulimit -Hn {wanted}, or fewer --agents"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
