"""
Which key a host must show: the file of known hosts, what an order says, what the site knows.
"""
