"""``relayctl``: what each of its commands says, and its exit codes."""
