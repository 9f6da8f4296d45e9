"""
The process on its machine: logs, systemd, the clock, the event loop, threads that do one thing after the other, files
that are written whole.
"""
