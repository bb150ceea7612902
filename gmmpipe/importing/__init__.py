"""Frames that another program made, as a feature store."""
