"""
What is on the wire: the messages between a main server and a relay, and how each dialect frames them.
"""
