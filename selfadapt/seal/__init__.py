"""SEAL's published result files: read and analysed."""
