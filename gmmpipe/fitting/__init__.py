"""Stage 2: a feature store to a Gaussian mixture."""
