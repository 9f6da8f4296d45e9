"""
Network devices: hosts that offer a command line on a pseudo-terminal, and nothing else.
"""
