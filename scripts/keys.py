#!/usr/bin/env python3
"""Make, list, rotate and revoke keys of the API. `scripts/keys.py --help` lists the options."""

from _launch import launch

launch("keys")
