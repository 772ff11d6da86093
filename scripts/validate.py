#!/usr/bin/env python3
"""Check Serve configs before they are deployed. `scripts/validate.py --help` lists the options."""

from _launch import launch

launch("validate")
