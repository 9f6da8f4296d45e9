"""
What several tests share: real peers (an OpenSSH server, Node.js servers) on loopback, started and stopped by a test.
"""
