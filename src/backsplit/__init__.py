"""BackSplit: lesion segmentation that trains with the background split into anatomy, and predicts the lesion alone."""

__version__ = "0.1.0"
