"""The tiny world: made-up passages, and the program that makes the embedded model."""
