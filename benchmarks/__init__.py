"""Measurements: speed in ratios against a peer or a measured ceiling, quality against saved results."""
