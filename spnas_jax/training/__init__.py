"""Training a network: optimizer, schedules, state, steps, loop, scoring."""
