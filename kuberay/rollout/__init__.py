"""Change what a running Serve serves: see what it would do, do it, go back. Needs a dashboard's URL, and no Kubernetes."""
