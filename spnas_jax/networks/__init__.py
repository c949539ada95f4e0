"""What a network is: architecture, block strings, space, zoo. No JAX."""
