#!/usr/bin/env python3
"""Choose a model's layout on a TPU slice before it is rented. `scripts/plan.py --help` lists the options."""

from _launch import launch

launch("plan")
