"""The publishers' file layouts. To add a site, add a :class:`Layout` to :data:`LAYOUTS`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from components.ingest.readings import Reading, read_montgomery, read_shenzhen
from core.shard import Shard

LABELS = {"0": "normal", "1": "abnormal"}
JUNK = ("thumbs.db", "desktop.ini", "readme", "readme.txt", "readme.md")  # files from file managers and publishers


@dataclass(frozen=True)
class Layout:
    """The file layout of one site.

    Attributes:
        site: the site's name in the manifest.
        id: regular expression of an X-ray's id, with the group ``label`` (0 or 1).
        image: path of the X-ray, relative to any folder, with ``{id}`` for the id.
        masks: paths of the masks, which are combined; an X-ray has all or none.
        reading: path of the clinical reading.
        read: parser of the reading.
        example: an example of a file name, for messages.
    """

    site: str
    id: str
    image: str
    masks: tuple[str, ...]
    reading: str
    read: Callable[[str], Reading]
    example: str

    @property
    def templates(self) -> tuple[str, ...]:
        """The image's path, then the masks', then the reading's."""
        return (self.image, *self.masks, self.reading)

    def patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        """Return each template with the regular expression of its full paths."""
        found = []
        for template in self.templates:
            before, after = template.split("{id}")
            pattern = rf"(?:.*/)?{re.escape(before)}(?P<id>{self.id}){re.escape(after)}"
            found.append((template, re.compile(pattern)))
        return found


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        site="montgomery",
        id=r"MCUCXR_\d+_(?P<label>[01])",
        image="CXR_png/{id}.png",
        masks=("ManualMask/leftMask/{id}.png", "ManualMask/rightMask/{id}.png"),
        reading="ClinicalReadings/{id}.txt",
        read=read_montgomery,
        example="MCUCXR_0001_0.png",
    ),
    Layout(
        site="shenzhen",
        id=r"CHNCXR_\d+_(?P<label>[01])",
        image="CXR_png/{id}.png",
        masks=("mask/{id}_mask.png",),
        reading="ClinicalReadings/{id}.txt",
        read=read_shenzhen,
        example="CHNCXR_0001_0.png",
    ),
    Layout(
        site="reviewed",  # X-rays that `defunet review import` adds, named by their SHA-256
        id=r"REVIEW_[0-9a-f]{16}_(?P<label>[01])",
        image="CXR_png/{id}.png",
        masks=("mask/{id}_mask.png",),
        reading="ClinicalReadings/{id}.txt",
        read=read_shenzhen,
        example="REVIEW_0123456789abcdef_0.png",
    ),
)


@dataclass(frozen=True)
class Case:
    """One X-ray with its masks and reading, as names in the source."""

    layout: Layout
    id: str
    label: str
    image: str
    masks: tuple[str, ...]  # empty: no mask
    reading: str  # empty: no reading

    @property
    def files(self) -> list[str]:
        """Every file of the case."""
        return [self.image, *self.masks, *([self.reading] if self.reading else [])]


@dataclass
class Survey:
    """Result of :func:`survey`.

    Attributes:
        cases: the X-rays, sorted by site and id.
        problems: one line per file that violates its layout and belongs to no X-ray.
        of_cases: site, id and the line, for each problem of one X-ray's files.
        ignored: files outside of the layouts' folders.
    """

    cases: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    of_cases: list[tuple[str, str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """All problems, one line each."""
        return self.problems + [line for _, _, line in self.of_cases]

    def part(self, shard: Shard) -> Survey:
        """Return the X-rays of a shard with their problems, and all problems that belong to no X-ray."""
        return Survey(
            [case for case in self.cases if shard.has(case.layout.site, case.id)],
            self.problems,
            [(site, identity, line) for site, identity, line in self.of_cases if shard.has(site, identity)],
            self.ignored,
        )


def survey(names: Iterable[str], layouts: Sequence[Layout] = LAYOUTS) -> Survey:
    """Group the files of a source into X-rays with their masks and readings.

    Only the names of a file and its nearest folders matter, so a cohort may be at any depth and in several parts.

    Args:
        names: paths relative to the source, with forward slashes.
        layouts: the layouts to match.
    """
    result = Survey()
    patterns = [(layout, layout.patterns()) for layout in layouts]
    folders = {str(PurePosixPath(template).parent) for layout in layouts for template in layout.templates}
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        if is_junk(name):
            continue
        for layout, templates in patterns:
            match = next(((t, m) for t, p in templates if (m := p.fullmatch(name))), None)
            if match is None:
                continue
            template, parts = match
            files = found[layout.site, parts["id"]]
            if template in files:
                problem = f"{name}: there already is {files[template]}; keep one of them"
                result.of_cases.append((layout.site, parts["id"], problem))
            else:
                files[template] = name
            break
        else:
            parent = "/" + str(PurePosixPath(name).parent)
            if any(parent.endswith("/" + folder) for folder in folders):
                examples = " or ".join(layout.example for layout in layouts)
                result.problems.append(f"{name}: the name does not follow the layout ({examples}); rename or remove it")
            else:
                result.ignored.append(name)
    by_site = {layout.site: layout for layout in layouts}
    for (site, identity), files in sorted(found.items()):
        _pair(by_site[site], identity, files, result)
    return result


def is_junk(name: str) -> bool:
    """Return whether a file is hidden, a macOS resource fork, or in :data:`JUNK`."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].lower() in JUNK


def _pair(layout: Layout, identity: str, files: dict[str, str], result: Survey) -> None:
    masks = [files[template] for template in layout.masks if template in files]
    missing = [template.format(id=identity) for template in layout.masks if template not in files]
    if masks and missing:
        problem = (
            f"{masks[0]}: its other half {', '.join(missing)} is missing; add it, or remove this one to leave "
            f"{identity} without a mask"
        )
        result.of_cases.append((layout.site, identity, problem))
    image = files.get(layout.image)
    if image is None:
        wanted = layout.image.format(id=identity)
        for mask in masks:
            problem = f"{mask}: a mask without its image {wanted}; add the image, or remove the mask"
            result.of_cases.append((layout.site, identity, problem))
        return  # a reading without an image is ignored: a subset may have the readings of all patients
    match = re.fullmatch(layout.id, identity)
    label = LABELS[match["label"]] if match else ""
    result.cases.append(
        Case(layout, identity, label, image, () if missing else tuple(masks), files.get(layout.reading, ""))
    )
