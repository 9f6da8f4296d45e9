"""
What becomes of a command: it is accepted, waits for its turn, runs, and its result is kept until it is confirmed.
"""
