"""A recording (a file, its bytes, or a segment of it) to a waveform."""
