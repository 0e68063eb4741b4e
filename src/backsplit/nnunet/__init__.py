"""The bridge to nnU-Net v2, and the only importer of it.

nnU-Net's arrays are `[channel, z, y, x]` and its spacings `(z, y, x)`; nothing in that order leaves this package.
"""
