"""What changes a database beside a daemon, or without one."""
