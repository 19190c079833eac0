"""Weights as sums of scaled trit planes (arXiv 2509.16989): how they are fitted and stored."""
