"""The SSH transport protocol: version, key exchange, packets."""
