"""The operators: one file each; see operator.py for what they are."""
