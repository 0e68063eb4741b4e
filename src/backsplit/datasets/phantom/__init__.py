"""A seeded synthetic abdominal CT whose target, the kidney cyst, only its surroundings tell apart.

Fluid of the same intensity, size and shape lies in bowel, liver, spleen, gallbladder and the fat around the kidneys,
but never touches a kidney. Cysts do: in KiTS23 (Heller et al., arXiv 2307.01984) 251 of 263 sampled cysts touch kidney,
a quarter are enclosed by it, and a quarter show more than half of their surface to something else.
"""

from backsplit.datasets.phantom.case import PhantomSettings, draw_case, draw_scene
from backsplit.datasets.phantom.cohort import write_cohort
from backsplit.datasets.phantom.scene import PHANTOM_SCHEME
from backsplit.datasets.phantom.separability import best_threshold_dice

__all__ = ["PHANTOM_SCHEME", "PhantomSettings", "best_threshold_dice", "draw_case", "draw_scene", "write_cohort"]
