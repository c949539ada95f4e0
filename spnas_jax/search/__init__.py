"""Searching for a network: gates, runtime, controller, step, projection."""
