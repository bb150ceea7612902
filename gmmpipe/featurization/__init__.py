"""Stage 1: manifests of audio to a feature store."""
