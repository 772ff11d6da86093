"""Facts about TPU slices and models, and what Ray leaves out around a slice: readiness, placement, watchdog."""
