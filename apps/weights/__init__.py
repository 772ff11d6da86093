"""Model weights: staged in a bucket, copied to hosts' disks, and proved whole."""
