"""
Which relays may connect: their keys, how they get them, where they may come from, and when they were seen.
"""
