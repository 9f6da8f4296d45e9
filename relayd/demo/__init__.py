"""
The main job for real, in one process on loopback: ``python -m relayd.demo``.
"""
