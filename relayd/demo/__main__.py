"""
``python -m relayd.demo``.
"""

from relayd.demo.demonstration import run

if __name__ == "__main__":
    run()
