"""How long ranks wait for each other."""

JOIN_TIMEOUT = 600.0
"""Seconds that a rank waits for the others to join, as torchrun does."""
MEETING_TIMEOUT = 1800.0
"""Seconds that a rank waits for the others between steps, where they may have much to do."""
EXCHANGE_TIMEOUT = 120.0
"""Seconds that a rank waits for the others within a step, unless told otherwise."""
