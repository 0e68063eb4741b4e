"""Classes that are lesions themselves, by their names."""

import re

WORDS = (
    "abscess|aneurysm|calcification|cancer|carcinoma|cyst|cysts|edema|embolism|false|fracture|gallstone|glioma|"
    "haematoma|haemorrhage|hematoma|hemorrhage|hemangioma|infarct|infarction|lesion|lesions|mass|metastases|metastasis|"
    "nodule|nodules|oedema|plaque|plaques|sarcoma|stone|stones|thrombus|tumor|tumors|tumour|tumours"
)
LESION = re.compile(rf"(?:^|[^a-z])(?:{WORDS})(?:$|[^a-z])")


def is_lesion(name: str) -> bool:
    """Whether a class is a lesion by its name: `kidney_cyst_left`, `liver_lesions`, `Tumour`; not `cystic duct`.

    An organ model's lesion class says where the target is. As an auxiliary it would compete with it for its voxels.
    """
    return LESION.search(name.lower()) is not None
