"""
How the text of a command is written for what reads it on a host that has no POSIX shell.
"""
