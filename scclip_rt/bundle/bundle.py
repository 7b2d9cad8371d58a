"""Opening a bundle: docs/bundle.md's rules of reading, before a single graph is loaded."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from scclip_rt.bundle.hashes import forget, remembered_sha256
from scclip_rt.bundle.hub import HUB_SCHEME, hub_folder
from scclip_rt.bundle.manifest import (
    DecodingSpec,
    EncoderSpec,
    FileSpec,
    GridKind,
    Manifest,
    ModelSpec,
    PreprocessingSpec,
    TextEncoderSpec,
    TextGraphs,
    parse_manifest,
)
from scclip_rt.bundle.onnx_weights import external_locations
from scclip_rt.bundle.presets import PresetSpec, preset
from scclip_rt.errors import BackendError, BundleError, OptionError, did_you_mean
from scclip_rt.files import check_regular, sha256_file
from scclip_rt.strict_json import parse_json

MANIFEST_FILE = "bundle.json"
DEMO_NAME = "demo"
_PACKAGE = Path(__file__).parents[1]
# A manifest is some 10 kB; a bound keeps a mistaken path (a disk image, /dev/zero) from filling the memory.
_MAX_MANIFEST_BYTES = 16 << 20
# What lies here is made for particular GPUs. A copy may leave it out, and a damaged one must not keep the other
# backends from working: whoever uses such a file checks it then (`checked_path`).
_OPTIONAL_FOLDERS = ("engines/", "kernels/")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose manifest, paths and sizes have been checked.

    Hashes are checked when a file is used (`checked_path`), and all of them by `verify_all`.

    Example:
        >>> bundle = Bundle.open("vitb16.scclip")
        >>> bundle.model.embed_dim, [encoder.precision for encoder in bundle.encoders]
        (512, ['fp32'])
    """

    path: Path
    manifest: Manifest = field(repr=False)

    @classmethod
    def open(cls, path: "str | Path | Bundle") -> "Bundle":
        """Read and check a bundle.

        Args:
            path: the directory; `demo` for the bundle that comes with the package; `hf://OWNER/NAME@REVISION` for one
                on the Hugging Face Hub (the revision may be left out). An open bundle is returned as it is.

        Raises:
            BundleError: whatever docs/bundle.md refuses, in one line that says what and where.
        """
        if isinstance(path, Bundle):
            return path
        root = _bundle_directory(path)
        try:
            text = _read_manifest(root)
            manifest = parse_manifest(text)
            _check_files(root, manifest)
        except BundleError as error:
            raise BundleError(f"{root}: {error}", field=error.field) from error
        return cls(root, manifest)

    @property
    def name(self) -> str:
        """The name the exporter gave."""
        return self.manifest.name

    @property
    def model(self) -> ModelSpec:
        """The checkpoint's sizes and origin."""
        return self.manifest.model

    @property
    def preprocessing(self) -> PreprocessingSpec:
        """How images are resized and cut, in pixels."""
        return self.manifest.preprocessing

    def feature_rows(self, height: int, width: int) -> int:
        """Rows of `features` of a window of so many pixels: its patches, and a class row where the method has one."""
        patch = self.model.patch_size
        if self.preprocessing.padding == "patch":
            height, width = height + patch - 1, width + patch - 1
        return (height // patch) * (width // patch) + (self.decoding.class_weighting == "surgery")

    def preset(self, names: str | None) -> PresetSpec:
        """The settings that a preset stands for; of None, none.

        Args:
            names: the name of a benchmark of the bundle, a point of `scclip_rt.bundle.presets.DIAL`, or one of each
                with a comma between.

        Raises:
            OptionError: no such name, or two of a kind.
        """
        try:
            return preset(names, self.manifest)
        except OptionError as error:
            raise OptionError(f"{self.path}: {error}", field="preset") from error

    @property
    def decoding(self) -> DecodingSpec:
        """Default scale and thresholds."""
        return self.manifest.decoding

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """The image encoders, one for each grid and precision."""
        return self.manifest.encoders

    @property
    def text_encoder(self) -> TextEncoderSpec:
        """The text encoder."""
        return self.manifest.text_encoder

    def text_graphs(self, precision: str) -> TextGraphs:
        """The text encoder in a precision.

        Raises:
            BackendError: the bundle has none.
        """
        found = self.text_encoder.precisions.get(precision)
        if found is None:
            have = ", ".join(self.text_encoder.precisions)
            raise BackendError(
                f"{self.path}: no text encoder in precision {precision!r}; the bundle has: {have}. Choose one with "
                "--text-precision, or export the bundle again with --int8-text",
                field="text_precision",
            )
        return found

    def encoders_for(self, grid: GridKind) -> tuple[EncoderSpec, ...]:
        """The encoders of one kind of grid, possibly none."""
        return tuple(encoder for encoder in self.encoders if encoder.grid.kind == grid)

    def checked_path(self, name: str) -> Path:
        """The path of a listed file whose content has its SHA-256.

        A file is hashed the first time it is asked for on this machine; then its size and modification time
        stand for it.

        Args:
            name: as in the manifest, for example `bundle.manifest.tokenizer`.

        Raises:
            BundleError: not listed, gone, or another content.
        """
        spec = self._listed(name)
        path = self.path / name
        try:
            found = remembered_sha256(path)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}", field=name) from error
        if found != spec.sha256:
            forget(path)
            # What was remembered may be what is damaged: the file itself has the last word.
            found = sha256_file(path)
            if found != spec.sha256:
                raise _wrong_hash(path, name, spec, found)
        return path

    def checked_graph(self, name: str) -> Path:
        """The path of an ONNX file, with the weight files it refers to checked as `checked_path` does.

        Raises:
            BundleError: as `checked_path`, or weights that lie outside the bundle or are not listed in it.
        """
        path = self.checked_path(name)
        for location in sorted(self.data_files(name)):
            self.checked_path(location)
        return path

    @contextlib.contextmanager
    def graph_without_links(self, name: str) -> Iterator[Path]:
        """As `checked_graph`, for a library that refuses symbolic links (OpenVINO 2026.4, in a Hugging Face cache).

        Yields:
            The path itself, or that of hard links, else copies, in a temporary folder that goes at the end.

        Raises:
            BundleError: as `checked_graph`.
        """
        path = self.checked_graph(name)
        names = [name, *sorted(self.data_files(name))]
        if not any((self.path / part).is_symlink() for part in names):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="scclip-rt-") as folder:
            for part in names:
                source, target = (self.path / part).resolve(), Path(folder) / part
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:  # another file system
                    shutil.copyfile(source, target)
            yield Path(folder) / name

    def data_files(self, name: str) -> set[str]:
        """The weight files that an ONNX file refers to, as names inside the bundle.

        Raises:
            BundleError: no ONNX file, or a reference that is absolute, leaves the bundle or is not listed.
        """
        try:
            locations = external_locations(self.path / name)
        except OSError as error:
            raise BundleError(f"{self.path / name}: {error.strerror or error}", field=name) from error
        names = set()
        for location in locations:
            relative = os.path.normpath(PurePosixPath(name).parent / location)
            try:
                _check_inside(relative if not PurePosixPath(location).is_absolute() else location)
                if relative not in self.manifest.files:
                    raise BundleError(f"{location!r} is not listed in bundle.json", field=name)
            except BundleError as error:
                raise BundleError(f"{self.path / name}: its weights: {error}", field=name) from error
            names.add(relative)
        return names

    def verify_all(self) -> dict[str, str]:
        """Read every listed file again, whatever is remembered, and compare hashes.

        Returns:
            File name → SHA-256, all as the manifest says; engines and kernels that a copy left out are not in it.

        Raises:
            BundleError: the first file that differs, or weights that leave the bundle.
        """
        digests = {}
        for name, spec in self.manifest.files.items():
            path = self.path / name
            if name.startswith(_OPTIONAL_FOLDERS) and not os.path.lexists(path):
                continue
            try:
                digests[name] = sha256_file(path)
            except OSError as error:
                raise BundleError(f"{path}: {error.strerror or error}", field=name) from error
            if digests[name] != spec.sha256:
                forget(path)
                raise _wrong_hash(path, name, spec, digests[name])
        texts = (graph for text in self.text_encoder.precisions.values() for graph in text.graphs)
        for graph in (*self.encoders, *texts):
            self.data_files(graph.file)
        return digests

    def _listed(self, name: str) -> FileSpec:
        try:
            return self.manifest.files[name]
        except KeyError:
            raise BundleError(f"{self.path}: {name!r} is not listed in bundle.json", field=name) from None


def _bundle_directory(path: str | Path) -> Path:
    if isinstance(path, str) and path.startswith(HUB_SCHEME):
        return hub_folder(path)
    if str(path) == DEMO_NAME:
        packaged = _PACKAGE / f"{DEMO_NAME}.scclip"
        if packaged.is_dir():
            return packaged
        raise BundleError(
            "this installation ships no demo bundle; name a bundle directory, or make one with "
            "`scclip-export --backbone vitb16 --output vitb16.scclip`"
            f" (a directory called {DEMO_NAME!r} is ./{DEMO_NAME})",
            field="bundle",
        )
    root = Path(path)
    if not os.path.lexists(root):
        raise BundleError(
            f"{root}: no such bundle{did_you_mean(str(path), _names_near(root))}; make one with "
            f"`scclip-export … --output {root.name}`",
            field="bundle",
        )
    if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises where a parent may not be searched)
        raise BundleError(
            f"{root} is a file; a bundle is a directory with a {MANIFEST_FILE} in it", field="bundle"
        )
    return root


def _names_near(root: Path) -> list[str]:
    """`demo`, and the bundles beside one that does not exist."""
    try:
        near = [str(entry) for entry in root.parent.iterdir() if entry.suffix == ".scclip"]
    except OSError:
        near = []
    return [DEMO_NAME, *near]


def is_bundle(path: Path) -> bool:
    """Whether a folder holds a bundle, sound or not: its bundle.json is JSON with a format version."""
    try:
        document = parse_json(_read_manifest(path))
    except (BundleError, ValueError):
        return False
    return isinstance(document, dict) and "format_version" in document


def _read_manifest(root: Path) -> bytes:
    file = root / MANIFEST_FILE
    try:
        check_regular(file)
        with file.open("rb") as stream:
            text = stream.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(
            f"no {MANIFEST_FILE} in it: not a bundle, or an incomplete copy", field=MANIFEST_FILE
        ) from None
    except OSError as error:
        raise BundleError(f"{MANIFEST_FILE}: {error.strerror or error}", field=MANIFEST_FILE) from error
    if len(text) > _MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST_FILE} is larger than {_MAX_MANIFEST_BYTES >> 20} MiB; not a manifest",
            field=MANIFEST_FILE,
        )
    return text


def _check_files(root: Path, manifest: Manifest) -> None:
    for name, spec in manifest.files.items():
        _check_inside(name)
        if not name.startswith(_OPTIONAL_FOLDERS):
            _check_size(root / name, name, spec)
    for name in manifest.references():
        _check_inside(name)
        if name not in manifest.files:
            raise BundleError(
                f"bundle.json names {name!r} but does not list it in `files`; export it again", field=name
            )


def _check_inside(name: str) -> None:
    """Refuse a path that is absolute or climbs out.

    A symbolic link may lead outside, as in a Hugging Face cache: what it leads to is held against the hash in
    bundle.json like any file, so that it can't smuggle in anything.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise BundleError(f"path {name!r} leaves the bundle; refused", field=name)


def _check_size(path: Path, name: str, spec: FileSpec) -> None:
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise BundleError(f"{name}: {error.strerror or error}", field=name) from error
    if size is None:
        reason = "is no regular file" if os.path.lexists(path) and path.exists() else "is missing"
        raise BundleError(f"{name} {reason}; copy or export the bundle again", field=name)
    if size != spec.bytes:
        raise BundleError(
            f"{name} has {size:,} bytes, bundle.json says {spec.bytes:,}: truncated or changed; "
            "copy or export the bundle again",
            field=name,
        )


def _wrong_hash(path: Path, name: str, spec: FileSpec, found: str) -> BundleError:
    return BundleError(
        f"{path}: SHA-256 is {found[:12]}…, bundle.json says {spec.sha256[:12]}…: the file was changed or "
        "damaged; copy or export the bundle again",
        field=name,
    )
