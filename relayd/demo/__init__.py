"""
The demonstration of relayd, in one process on loopback: ``python -m relayd.demo``.
"""
