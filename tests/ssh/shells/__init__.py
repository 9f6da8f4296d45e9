"""How commands are written for hosts without a POSIX shell."""
