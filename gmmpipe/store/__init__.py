"""Stores of features and of labels: how one is made, read and checked."""
