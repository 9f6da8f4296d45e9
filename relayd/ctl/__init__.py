"""``relayctl``: shows and checks a relay's status, settings and records from the command line."""
