"""Measurements of a server (serving, report, accuracy: run with `ray job submit`) and predictions for a slice (planner)."""
