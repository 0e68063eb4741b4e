"""Lung1 as NBIA lays it out: CT, RTSTRUCT and SEG of made-up patients, written with pydicom and highdicom.

The anatomy is analytic: every region is an ellipse in each slice, given in mm along the rows and columns of the image,
so that masks are known exactly.
"""

from dataclasses import dataclass, field, replace

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

MANIFEST = "manifest-1603198545583/NSCLC-Radiomics"
OBLIQUE = (np.cos(0.2), np.sin(0.2), 0.0, -np.sin(0.2), np.cos(0.2), 0.0)


@dataclass(frozen=True)
class Region:
    """Concentric ellipses per slice: the outer one filled, each further one the other way round."""

    centre_mm: tuple[float, float]
    axes_mm: tuple[tuple[float, float], ...]
    slices: range


REGIONS = {
    "GTV-1": Region((24.0, 30.0), ((11.0, 14.0), (5.0, 6.0)), range(3, 7)),
    "Lung-Left": Region((24.0, 30.0), ((18.0, 24.0),), range(1, 9)),
    "Lung-Right": Region((60.0, 30.0), ((14.0, 22.0),), range(1, 9)),
    "Esophagus": Region((42.0, 12.0), ((4.0, 4.0),), range(10)),
    "Spinal-Cord": Region((42.0, 50.0), ((4.0, 5.0),), range(10)),
}
HEART = {"Heart": Region((46.0, 30.0), ((6.0, 9.0),), range(2, 6))}


@dataclass(frozen=True)
class Scan:
    """A CT: 72 columns of 1.2 mm, 64 rows of 0.9 mm, 10 slices of 3 mm, turned in the axial plane."""

    patient: str = "LUNG1-001"
    columns: int = 72
    rows: int = 64
    spacing_mm: tuple[float, float] = (1.2, 0.9)
    """Along a row, down a column."""
    gap_mm: float = 3.0
    heights: tuple[int, ...] = tuple(range(10))
    orientation: tuple[float, ...] = OBLIQUE
    origin_mm: tuple[float, float, float] = (-40.0, -100.0, -321.0)
    tilt_mm: float = 0.0
    """Shift of each slice against the one below."""
    study: str = field(default_factory=generate_uid)
    series: str = field(default_factory=generate_uid)
    frame: str = field(default_factory=generate_uid)

    @property
    def axes(self):
        along, down = np.reshape(self.orientation, (2, 3))
        return along, down, np.cross(along, down)

    def place_mm(self, x_mm, y_mm, height):
        along, down, normal = self.axes
        aside = down * self.tilt_mm * height
        points = np.multiply.outer(x_mm, along) + np.multiply.outer(y_mm, down)
        return np.array(self.origin_mm) + points + normal * self.gap_mm * height + aside

    def mask(self, region):
        """Which voxel centres lie in a region; axes column, row, slice."""
        x, y = (np.arange(n) * edge for n, edge in zip((self.columns, self.rows), self.spacing_mm, strict=True))
        inside = np.zeros((self.columns, self.rows, len(self.heights)), bool)
        for axes_mm in region.axes_mm:
            level = ((x[:, None] - region.centre_mm[0]) / axes_mm[0]) ** 2
            level = level + ((y - region.centre_mm[1]) / axes_mm[1]) ** 2
            for number, height in enumerate(self.heights):
                if height in region.slices:
                    inside[:, :, number] ^= level < 1
        return inside


def hu(scan):
    """Stored values of all slices: one more in every slice, so that slices differ."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 1500, (len(scan.heights), scan.rows, scan.columns)).astype(np.int16)


def _dataset(kind, scan, modality, path):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    content.PatientID, content.PatientName = scan.patient, f"Doe^{scan.patient}"
    content.PatientBirthDate, content.PatientSex = "19400101", "M"
    content.StudyInstanceUID, content.Modality = scan.study, modality
    content.StudyDate, content.StudyTime, content.StudyID = "20080918", "120000", ""
    content.AccessionNumber, content.ReferringPhysicianName = "", ""
    return content


def write_ct(folder, scan, *, first=1):
    """One file per slice, as `1-001.dcm`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, height in enumerate(scan.heights):
        path = folder / f"1-{first + number:03}.dcm"
        content = _dataset(CTImageStorage, scan, "CT", path)
        content.SeriesInstanceUID, content.FrameOfReferenceUID = scan.series, scan.frame
        content.SeriesNumber, content.InstanceNumber = 0, number + 1
        content.PositionReferenceIndicator, content.Manufacturer = "", "SIEMENS"
        content.Rows, content.Columns = scan.rows, scan.columns
        content.PixelSpacing = [scan.spacing_mm[1], scan.spacing_mm[0]]
        content.SliceThickness, content.ImageOrientationPatient = scan.gap_mm, [f"{v:.12g}" for v in scan.orientation]
        content.ImagePositionPatient = [f"{v:.10g}" for v in scan.place_mm(0.0, 0.0, height)]
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated, content.BitsStored, content.HighBit, content.PixelRepresentation = 16, 16, 15, 1
        content.RescaleSlope, content.RescaleIntercept = 1, -1024
        content.PixelData = hu(scan)[number].tobytes()
        content.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_rtstruct(path, scan, regions, *, num_points=240, off_grid=0.0):
    """Contours in the plane of each slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _dataset(RTStructureSetStorage, scan, "RTSTRUCT", path)
    content.SeriesInstanceUID, content.StructureSetLabel = generate_uid(), "RTSTRUCT"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = scan.series
    study.RTReferencedSeriesSequence, frame.FrameOfReferenceUID = [series], scan.frame
    frame.RTReferencedStudySequence = [study]
    content.ReferencedFrameOfReferenceSequence = [frame]
    content.StructureSetROISequence, content.ROIContourSequence = [], []
    turn = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    for number, (name, region) in enumerate(regions.items(), start=1):
        roi, contours = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, scan.frame
        contours.ReferencedROINumber, contours.ContourSequence = number, []
        for height in region.slices:
            for axes_mm in region.axes_mm:
                item = Dataset()
                x_mm = region.centre_mm[0] + axes_mm[0] * np.cos(turn)
                y_mm = region.centre_mm[1] + axes_mm[1] * np.sin(turn)
                points = scan.place_mm(x_mm, y_mm, height + off_grid)
                item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", num_points
                item.ContourData = [f"{value:.8g}" for value in points.ravel()]
                contours.ContourSequence.append(item)
        content.StructureSetROISequence.append(roi)
        content.ROIContourSequence.append(contours)
    content.save_as(path, enforce_file_format=True)


LABELS = {
    "GTV-1": ("Neoplasm, Primary", None),
    "Lung-Left": ("Lung", codes.SCT.Left),
    "Lung-Right": ("Lung", codes.SCT.Right),
    "Lungs-Total": ("Lung", codes.SCT.RightAndLeft),
    "Heart": ("Heart", None),
    "Esophagus": ("Esophagus", None),
    "Spinal-Cord": ("Spinal cord", None),
}


def write_seg(path, ct_files, scan, regions, *, described=True):
    """What TCIA's conversion gives: the region's name as description, its meaning as label."""
    images = [pydicom.dcmread(each) for each in ct_files]
    descriptions, masks = [], []
    for number, (name, region) in enumerate(regions.items(), start=1):
        label, side = LABELS[name]
        description = hd.seg.SegmentDescription(
            number, label, codes.SCT.Tissue, codes.SCT.Tissue, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        if described:
            description.SegmentDescription = name
        if side is not None:
            modifier = hd.sr.CodedConcept(side.value, side.scheme_designator, side.meaning)
            description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
        descriptions.append(description)
        masks.append(scan.mask(region).transpose(2, 1, 0))
    content = hd.seg.Segmentation(
        images,
        np.stack(masks, axis=-1).astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        descriptions,
        series_instance_uid=generate_uid(),
        series_number=300,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="maker",
        software_versions="1",
        device_serial_number="1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    content.save_as(path)


def write_patient(root, scan=None, regions=None, *, kinds=("rtstruct", "seg"), number=1, **options):
    """A patient's folders as NBIA names them; `number` sets the patient."""
    scan = scan or Scan(patient=f"LUNG1-{number:03}")
    regions = REGIONS if regions is None else regions
    study = root / MANIFEST / scan.patient / "09-18-2008-StudyID-NA-69331"
    ct_files = write_ct(study / "0.000000-NA-82046", scan)
    if "rtstruct" in kinds:
        write_rtstruct(study / "3.000000-NA-78236" / "1-1.dcm", scan, regions, **options)
    if "seg" in kinds:
        drawn = {name: region for name, region in regions.items() if name in LABELS}
        write_seg(study / "300.000000-Segmentation-9.554" / "1-1.dcm", ct_files, scan, drawn)
    return scan


__all__ = ["HEART", "MANIFEST", "REGIONS", "Region", "Scan", "replace", "write_ct", "write_patient", "write_rtstruct"]
