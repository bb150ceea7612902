"""The maths of a diagonal-covariance Gaussian mixture; it knows nothing of stores or ranks."""
