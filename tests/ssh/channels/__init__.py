"""What runs over a connection that is logged in: commands, and connections to other hosts."""
