"""What is said about checkpoints: comparisons, statistics, tables, plots, adapters."""
