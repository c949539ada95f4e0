"""What computes a network: Flax modules and their fast convolutions."""
