"""A source of every kind, made from the demo corpus, beside the same audio as loose files."""

from helpers.kinds import folders, plain

MAKERS = {**plain.MAKERS, **folders.MAKERS}
"""A function of an empty folder for each kind, and for each form that a kind has."""
