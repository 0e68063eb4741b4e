"""DICOM series as volumes and masks. Nothing here names a patient: errors say what is wrong, never whose file it is."""
