"""The feature store: what stage 1 writes and everything else reads."""
