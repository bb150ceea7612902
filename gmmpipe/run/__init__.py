"""What jobs of several processes share: ranks, signals, progress, a run's output folder."""
