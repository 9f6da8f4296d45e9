"""
What every connection has to do with: how hosts are written, matched and looked up, TLS, flow control, descriptors.
"""
