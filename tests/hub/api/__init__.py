"""
Tests of relayd.hub.api.
"""
