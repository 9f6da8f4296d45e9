"""The SSH client, in memory and with a real OpenSSH server."""
