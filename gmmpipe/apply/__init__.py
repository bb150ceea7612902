"""What a fitted mixture says of a feature store: scores and labels."""
