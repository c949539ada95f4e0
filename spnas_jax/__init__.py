"""Single-Path NAS in JAX/Flax: search, train, export and measure."""
