"""Measured constants, each beside the measurement it comes from. Physics stands in the modules that use them."""
