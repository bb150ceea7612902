"""What a frame is, and how it is computed."""
