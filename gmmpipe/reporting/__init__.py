"""A fit as a page that a person reads: its numbers, its pictures, and some speech to hear."""
