"""What a process is to its machine: logs, systemd, limits, the event loop."""
