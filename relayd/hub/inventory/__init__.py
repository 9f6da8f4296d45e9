"""
What the hub knows of hosts and how to log in to them: inventories read and written, credentials kept sealed.
"""
