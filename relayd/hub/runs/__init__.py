"""
The engine of runs: it does what `relayd.hub.decisions` decides, with the store and the links to relays.

A run's order is stored before anybody is told that it was taken; that an invocation is sent is stored before it is
sent; a result is stored before its receipt goes out.
"""
