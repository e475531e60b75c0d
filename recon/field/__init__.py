"""Radiance fields: rays, samples, factorised grids, the network that reads them, compositing (docs/field.md)."""
