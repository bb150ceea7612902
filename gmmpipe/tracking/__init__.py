"""A run's metrics as curves elsewhere: TensorBoard, Weights & Biases, Trackio."""
