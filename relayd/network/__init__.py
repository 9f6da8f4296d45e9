"""
What every connection needs: how hosts are written, matched and looked up; TLS, flow control, descriptors.
"""
