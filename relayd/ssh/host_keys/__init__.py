"""
The check of host keys: against the known hosts, and against the fingerprint that a command brings.
"""
