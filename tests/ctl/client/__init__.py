"""
See the module that has the same path in relayd.
"""
