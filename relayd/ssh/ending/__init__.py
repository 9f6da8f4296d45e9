"""
How a command is ended, and what its account is: questions asked in a session of its own.
"""
