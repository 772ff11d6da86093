"""Everything Kubernetes: one typed spec -> manifests -> apply, wait, diagnose, remove; and the Google Cloud side of it."""
