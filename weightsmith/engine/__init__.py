"""From arguments to a published checkpoint: plan from headers, run in bounded memory, publish."""
