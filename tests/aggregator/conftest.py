"""Agents are tested against a real daemon in a thread."""

from tests.system.conftest import stack, start_agent, start_daemon, start_python, unused_tcp_port

__all__ = ["stack", "start_agent", "start_daemon", "start_python", "unused_tcp_port"]
