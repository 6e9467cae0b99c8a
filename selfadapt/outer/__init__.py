"""Outer updates: how outcomes make a better policy."""
