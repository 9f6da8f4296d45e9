"""What is said to people: catalogues and character sets."""
