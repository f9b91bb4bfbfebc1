"""The search: grid, spaces, schedulers, proposals."""
