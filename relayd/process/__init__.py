"""
The process on its machine: logs, systemd, the clock, the event loop, files that are written whole.
"""
