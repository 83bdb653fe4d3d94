"""FGVC-Aircraft (Maji et al., 2013) in CoOp's layout: 100 variants, listed in text files instead of a split file."""

from __future__ import annotations

from pathlib import Path

from psp_ray.core.errors import DatasetError
from psp_ray.data.coop import build, named_folder, require_files, require_folder
from psp_ray.data.dataset import Dataset, make_dataset
from psp_ray.data.registry import Request, register_dataset

TEMPLATES = ["a photo of a {}, a type of aircraft."]
LISTS = {
    "pool": "images_variant_train.txt",
    "val": "images_variant_val.txt",
    "test": "images_variant_test.txt",
}


@register_dataset("fgvc_aircraft")
def load_fgvc_aircraft(request: Request) -> Dataset:
    """`DATA_ROOT/fgvc_aircraft` with `images/`, `variants.txt` and `images_variant_{train,val,test}.txt`.

    Raises:
        DatasetError: a list is missing or malformed, or names a variant or an image that is not there.
    """
    root = named_folder(request, "fgvc_aircraft")
    require_folder(request, root / "images")
    if request.split is not None:
        return build("fgvc_aircraft", root, "images", request.split, TEMPLATES)
    classes = _lines(root / "variants.txt")
    place = {name: index for index, name in enumerate(classes)}
    ids: list[str] = []
    splits: list[str] = []
    labels: list[int] = []
    for part, file in LISTS.items():
        for number, line in enumerate(_lines(root / file), start=1):
            image, _, variant = line.partition(" ")
            if variant.strip() not in place:
                raise DatasetError(
                    f"{root / file}, line {number}: {line!r} is not an image number and a variant of variants.txt; "
                    "restore the file"
                )
            ids.append(f"images/{image}.jpg")
            splits.append(part)
            labels.append(place[variant.strip()])
    require_files("fgvc_aircraft", root, ids, "its lists")
    return make_dataset("fgvc_aircraft", classes, ids, splits, labels, root=root, templates=TEMPLATES)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"dataset 'fgvc_aircraft': {file} can't be read ({error}); restore it") from None
