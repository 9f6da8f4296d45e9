"""
The hub's options: its table, how it is read, and what the values mean together.
"""
