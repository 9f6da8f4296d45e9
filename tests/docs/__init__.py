"""The documents against the code: commands run, options exist, the site builds, translations keep step."""
