"""An audio file, or a segment of one, to a waveform."""
