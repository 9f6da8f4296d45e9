"""
The hub as one service: joins store, inventory, access, links, runs and API, and opens its ports.
"""
