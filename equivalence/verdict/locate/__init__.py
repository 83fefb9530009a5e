"""Where a difference starts, and what would explain it."""
