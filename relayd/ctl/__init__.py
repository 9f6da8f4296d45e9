"""``relayctl``: looks at a relay's settings and records from the command line."""
