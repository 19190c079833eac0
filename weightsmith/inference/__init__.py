"""Models that run: what needs transformers, and no other command does."""
