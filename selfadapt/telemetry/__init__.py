"""What a run records while it runs: events, progress, throughput, compilation."""
