"""What the site allows."""
