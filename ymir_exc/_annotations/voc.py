"""The voc format: an XML file for each image (contract 5.3)."""
from __future__ import annotations

from typing import TYPE_CHECKING, List, Mapping, Optional, Sequence, Set

from ymir_exc._annotations.objects import LabelledObject, finite, has_extent, ids_of_names, read_file, whole
from ymir_exc.errors import DatasetError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_NUMBER = 1000


def read_voc(path: str, class_names: Sequence[str], unknown: Optional[Set[str]] = None) -> List[LabelledObject]:
    """Read a voc file as the platform writes it: 0-based inclusive corners, `truncated` not a number, `bndbox` at times absent (5.3).

    Args:
        path: The file; UTF-8.
        class_names: Their order defines the class ids; a name is first compared as it is, then without case and outer blanks.
        unknown: Where names of other classes are put; their objects are left out.

    Raises:
        DatasetError: The file is missing, no XML, has a document type definition (its entities could grow without bound), or a box is
            malformed.
    """
    class_ids = ids_of_names(tuple(class_names))
    objects = []
    for number, element in enumerate(parse_xml(path).iterfind("object"), 1):
        try:
            name = element.findtext("name", "")
            class_id = class_ids.get(name, class_ids.get(name.strip().lower()))
            if class_id is not None:
                objects += _voc_object(class_id, element)
            elif unknown is not None:
                unknown.add(name)
        except ValueError as e:
            raise DatasetError(f"{path}, object {number}: {e}") from None
    return objects


def parse_xml(path: str) -> Element:
    from xml.etree import ElementTree
    try:
        text = read_file(path).decode("utf-8")
        if "<!DOCTYPE" in text:
            raise DatasetError(f"{path} has a document type definition", hint="remove the <!DOCTYPE ...>; annotations need none")
        return ElementTree.fromstring(text)    # noqa: S314 - without a DTD there are no entities; as text no other encoding applies
    except UnicodeDecodeError as e:
        raise DatasetError(f"{path} is not UTF-8 text: {e.reason}", hint="save the file as UTF-8") from None
    except (ElementTree.ParseError, ValueError) as e:
        if isinstance(e, DatasetError):
            raise
        raise DatasetError(f"{path} is not valid XML: {e}") from None


def _voc_object(class_id: int, element: Element) -> List[LabelledObject]:
    """The object, or nothing when it has no box."""
    box = element.find("bndbox")
    if box is None:
        return []
    values = {child.tag: child.text or "" for child in box}
    xmin, ymin, xmax, ymax = (_voc_number(values, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if not has_extent(xmin, ymin, xmax, ymax):
        return []
    quality, angle = element.findtext("box_quality") or "-1", values.get("rotate_angle") or "0"
    return [LabelledObject(class_id, xmin, ymin, xmax, ymax, finite(quality), finite(angle))]


def _voc_number(values: Mapping[str, str], tag: str) -> int:
    if tag not in values:
        raise ValueError(f"its bndbox has no {tag}")
    if len(values[tag]) > _MAX_NUMBER:
        raise ValueError(f"{tag} is too long for a number")
    try:
        return whole(values[tag])
    except ValueError as e:
        raise ValueError(f"{tag}: {e}") from None
