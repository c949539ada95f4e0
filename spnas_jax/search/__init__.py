"""Searching a network: gates, runtime, controller, step, projection."""
