"""The choice of a layout before a slice is rented: memory, speed and cost of each, and its state upstream."""
