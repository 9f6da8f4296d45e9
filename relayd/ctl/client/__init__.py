"""
What the subcommands of ``relayctl`` for people share: the hub's API, as a client sees it.
"""
