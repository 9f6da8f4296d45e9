"""
The record of commands and results that outlives the process of the relay.
"""
