"""
Tests of `relayd.hub.decisions`.
"""
