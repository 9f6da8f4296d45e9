"""
relayd measured beside other relays: ``python benchmarks/run.py``.  Timings live here, never in tests.
"""
