"""Keys and certificates: how they are read, named and checked."""
