"""What every connection has to do with: spelling of hosts, TLS, descriptors."""
