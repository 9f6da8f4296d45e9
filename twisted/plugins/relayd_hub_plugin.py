"""
Makes ``twistd relayd-hub`` and ``twist relayd-hub``.  Nothing of relayd is imported until one of them is run.
"""

from twisted.application.service import ServiceMaker

relayd_hub = ServiceMaker("relayd-hub", "relayd.hub_tap", "Give relays the runs that people order.", "relayd-hub")
