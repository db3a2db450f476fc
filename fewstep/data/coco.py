"""COCO's captions: one JSON file that names images and has several captions of each."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any

from fewstep.config import DataSettings
from fewstep.data.captions import attempt, parse_json, read_text
from fewstep.data.folders import ImageFiles, named_files
from fewstep.data.members import is_excluded
from fewstep.data.splits import by_split, chosen
from fewstep.errors import DataError
from fewstep.text import checked


def captions_files(folder: Path) -> list[Path]:
    """Return the caption files of a COCO folder."""
    return sorted([*folder.glob("annotations/captions_*.json"), *folder.glob("captions_*.json")])


def read_coco(
    path: Path, images: Path | None = None, exclude: Sequence[str] = (), split: str = "train"
) -> ImageFiles:
    """Read a captions file (`captions_train2017.json`), or a folder with one in `annotations/`.

    Of a folder with several it is that of the split, by its name. The images lie in `train2017/`,
    beside the file or one folder up, or in `images`. Captions are in the order of their ids; those
    whose images match `exclude` are not looked at.
    """
    if path.is_dir():
        path = _only(captions_files(path), path, images, split)
    names, notes = _coco_tables(path)
    rows: dict[object, list[tuple[str, object]]] = {image: [] for image in names}
    for image, number, caption in notes:
        rows[image].append((f"{path}: annotation {number}", caption))
    kept = (image for image in names if not is_excluded(Path(names[image]), exclude))
    order = sorted(kept, key=lambda image: names[image])

    def captions_of(image: object) -> tuple[str, ...]:
        return tuple(starmap(checked, rows[image] or [(f"{path}: image {names[image]}", None)]))

    texts, left_out = attempt(captions_of, ((image,) for image in order))
    folders = _image_folders(path)
    folder = images or next(filter(Path.is_dir, folders), None)
    if folder is None:
        raise DataError(
            f"the images of {path} are in none of {', '.join(map(str, folders))}; put them there, "
            "or set data.images to their folder"
        )
    found = named_files(folder, [names[image] for image in order], texts, path, exclude)
    return replace(found, left_out=(*left_out, *found.left_out))


def _coco_tables(path: Path) -> tuple[dict[Any, str], list[tuple[Any, Any, Any]]]:
    """Return file names by image id, and (image id, id, caption) of each annotation, sorted."""
    table = parse_json(read_text(path), str(path))
    try:
        names = {image["id"]: str(image["file_name"]) for image in table["images"]}
        notes = sorted((a["image_id"], a["id"], a["caption"]) for a in table["annotations"])
        repeated = len(table["images"]) - len(names)
        strange = [note for note in notes if note[0] not in names]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no COCO captions file ({error!r}); it needs images with id and file_name, "
            "and annotations with image_id, id and caption, such as captions_train2017.json"
        ) from error
    if not names:
        raise DataError(f"{path} names no image; is it the right file?")
    if repeated:
        raise DataError(f"{path} gives {repeated} images the id of another; give each its own")
    if strange:
        image, number, _ = strange[0]
        raise DataError(f"{path}: annotation {number} is of image {image}, which is missing")
    return names, notes


def _only(found: list[Path], folder: Path, images: Path | None, split: str) -> Path:
    """Return the captions file of a split, of those whose images are there.

    One alone is taken where no split is set: a download has the captions of two sets.
    """
    usable = [path for path in found if images or any(map(Path.is_dir, _image_folders(path)))]
    usable = usable or found
    if len(usable) > 1 or split != DataSettings.split:
        names = by_split([path.relative_to(folder) for path in usable])
        usable = [folder / name for name in chosen(names, split, str(folder))]
    if len(usable) == 1:
        return usable[0]
    raise DataError(
        f"{folder} holds {len(usable)} files of captions; set data.path to one of "
        f"{', '.join(map(str, usable))}"
    )


def _image_folders(path: Path) -> list[Path]:
    name = path.stem.removeprefix("captions_")
    above, beside = path.parent.parent, path.parent
    return [above / name, beside / name, above / "images" / name, beside / "images"]
