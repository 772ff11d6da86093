"""What `ray job submit` runs, and what measures this project against its parts."""
