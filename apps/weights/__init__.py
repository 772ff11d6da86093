"""Model weights on local disk: where they are, how they got there, and the proof that they are whole."""
