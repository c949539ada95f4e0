"""Networks as TFLite models."""
