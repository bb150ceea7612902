"""A label store in the forms that other trainers read."""
