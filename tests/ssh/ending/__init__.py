"""How a command is ended, and what the host's shell does for that."""
