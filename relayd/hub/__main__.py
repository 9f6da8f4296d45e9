"""
``python -m relayd.hub``: a main server for one relay, to try a relay out or to look into a problem.
"""

from relayd.hub.terminal import run

if __name__ == "__main__":
    run()
