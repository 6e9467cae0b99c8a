"""The tiny world: made-up passages and the embedded model that reads them."""
