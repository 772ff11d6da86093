"""Strict offline checks of a Serve config: `scripts/validate.py` runs them on files, the apps on their own arguments."""
