"""Facts about TPU slices and models, and what Ray leaves to others around a slice: readiness, placement, watchdog."""
