"""The tiny world of grids: rules on small grids, as few-shot tasks for the embedded model "tiny_grids"."""
