"""What the operator has chosen: options, files, credentials, and how mistakes are told."""
