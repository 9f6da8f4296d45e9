"""
relayd runs inside a private network, dials out to a main server over one WebSocket, takes commands from it, runs them
on hosts over pooled SSH connections, and sends the results back.
"""

__version__ = "0.1.0"
