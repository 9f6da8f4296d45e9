"""
What an operator gets wrong in an installed relayd, by where; `tests.installed.test_faults` makes each.
"""
