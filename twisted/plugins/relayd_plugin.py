"""
Makes ``twistd relayd`` and ``twist relayd``.  Nothing of relayd is imported until one of them is run.
"""

from twisted.application.service import ServiceMaker

relayd = ServiceMaker("relayd", "relayd.tap", "Run a main server's commands on SSH hosts of this network.", "relayd")
