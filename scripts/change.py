#!/usr/bin/env python3
"""Change what a running Serve serves, with a way back. `scripts/change.py --help` lists the commands."""

from _launch import launch

launch("rollout")
