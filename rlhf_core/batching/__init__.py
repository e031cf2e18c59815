"""Batches: padding, packing, microbatches, and sums over ranks."""
