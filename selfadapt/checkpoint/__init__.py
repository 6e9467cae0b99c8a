"""What a run stores so that it can resume."""
