"""
Tests of `relayd.hub.access`.
"""
