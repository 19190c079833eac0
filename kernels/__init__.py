"""Numerical kernels: each folder has a reference in numpy and faster forms of the same function."""
