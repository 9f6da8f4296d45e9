"""What a relay remembers of commands and results, whatever happens to its process."""
