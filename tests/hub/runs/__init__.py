"""
Tests of `relayd.hub.runs`.
"""
