"""
Runs a command as another user than the one who logs in, by sudo or su: the texts for the host, and the password's way.
"""
