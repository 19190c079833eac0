"""Weights on analog devices: scales, cells, faults and one pass from programming to read-back."""
