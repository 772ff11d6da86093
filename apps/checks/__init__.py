"""Strict checks of a Serve config, offline: `scripts/validate.py` runs them on files, the apps on their own arguments."""
