"""What users have, to manifest lines."""
