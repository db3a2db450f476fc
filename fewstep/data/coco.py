"""COCO: one JSON file of captions, and the folder of images that it names."""

from pathlib import Path
from typing import Any

from fewstep.data.captions import Faults, checked, parsed, read_text
from fewstep.data.disk import find_named
from fewstep.data.errors import DataError
from fewstep.data.folder import images_among
from fewstep.data.source import ImageFiles


def captions_files(folder: Path) -> list[Path]:
    """Return the caption files of a COCO folder."""
    return sorted([*folder.glob("annotations/captions_*.json"), *folder.glob("captions_*.json")])


def read_coco(path: Path, images: Path | None = None) -> ImageFiles:
    """Read a captions file (`captions_train2017.json`), or a folder with one in `annotations/`.

    The images lie in `train2017/`, beside the file or one folder up, or in `images`. Captions
    are in the order of their ids.

    Raises:
        DataError: if it does not parse, is no captions file, or an image has no caption.
    """
    if path.is_dir():
        path = _only(captions_files(path), path, images)
    table: Any = parsed(read_text(path), str(path))
    try:
        names = {image["id"]: str(image["file_name"]) for image in table["images"]}
        notes = sorted(
            (note["image_id"], note["id"], note["caption"]) for note in table["annotations"]
        )
        twice = len(table["images"]) - len(names)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no COCO captions file ({error!r}); it needs images with id and file_name, "
            "and annotations with image_id, id and caption, such as captions_train2017.json"
        ) from error
    if not names:
        raise DataError(f"{path} names no image; is it the right file?")
    if twice:
        raise DataError(f"{path} gives {twice} images the id of another; give each its own")
    texts: dict[object, list[str]] = {image: [] for image in names}
    faults = Faults()
    for image, number, caption in notes:
        if image not in texts:
            raise DataError(f"{path}: annotation {number} is of image {image}, which is not there")
        with faults.collected():
            texts[image].append(checked(caption, f"{path}: annotation {number}"))
    order = sorted(names, key=lambda image: names[image])
    described = {image for image, *_ in notes}
    faults.reasons += [
        f"{path}: image {names[image]} has no caption; write one, or remove the image"
        for image in order
        if image not in described
    ]
    faults.check()
    folder = images or _images_of(path)
    files, others = find_named(folder, [names[image] for image in order], path)
    captions = tuple(tuple(texts[image]) for image in order)
    return ImageFiles(folder, files, captions, images_among(others))


def _only(found: list[Path], folder: Path, images: Path | None) -> Path:
    """Return the captions file whose images are there: a download has those of two sets."""
    usable = [path for path in found if any(map(Path.is_dir, _candidates(path)))]
    if len(found) == 1 or (len(usable) == 1 and not images):
        return (usable or found)[0]
    raise DataError(
        f"{folder} holds {len(found)} caption files, {len(usable)} of them with their images; "
        f"set data.path to one of {', '.join(str(path) for path in found)}"
    )


def _candidates(path: Path) -> list[Path]:
    name = path.stem.removeprefix("captions_")
    return [path.parent.parent / name, path.parent / name, path.parent / "images"]


def _images_of(path: Path) -> Path:
    candidates = _candidates(path)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataError(
        f"the images of {path} are in none of {', '.join(map(str, candidates))}; put them there, "
        "or set data.images to their folder"
    )
