"""Which layout to choose before a slice is rented: memory, speed and cost of each, and what upstream says of it."""
