"""
What the hub decides: which hosts a run is for, what is sent next, and how things end.

Nothing here does input or output, or reads a clock: what happened goes in, what is to be done comes out.
"""
