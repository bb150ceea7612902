"""What users have, translated to plain manifest lines, and what such a line says."""
