"""The Google Cloud side: what a deployment needs there, as gcloud commands that are shown, run, checked and undone."""
