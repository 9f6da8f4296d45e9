"""The dialects of the uplink: codecs without I/O, for both roles."""
