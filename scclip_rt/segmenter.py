"""`Segmenter`: a bundle and a vocabulary, ready to turn images into label maps."""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from scclip_rt.backends import EncoderBackend, open_backend
from scclip_rt.backends.any_size import AnySizeEncoder
from scclip_rt.backends.handle import EncoderHandle
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.decode.decode import decode
from scclip_rt.decode.pamr import pixel_weights
from scclip_rt.decode.plan import decode_plan
from scclip_rt.decode.settings import DecodeOptions
from scclip_rt.device_stream import DevicePath, device_path
from scclip_rt.encoded import Encoded
from scclip_rt.errors import ImageError, OptionError, VocabularyError
from scclip_rt.image.geometry import MAX_PIXELS, MAX_WINDOWS
from scclip_rt.image.memory import EncoderCost
from scclip_rt.image.preparation import Preparation, PreparedImage
from scclip_rt.limits import in_range
from scclip_rt.segmentation import Segmentation
from scclip_rt.stream import Outcome, Stages, Timings, run_pipeline
from scclip_rt.vocabulary.file import Vocabulary
from scclip_rt.vocabulary.open import EmbeddingOptions, TextTower, check_model, resolve_vocabulary

if TYPE_CHECKING:
    from scclip_rt.image.load import ImageSource
    from scclip_rt.video.reuse import Reuse

_Option = TypeVar("_Option")
_NOT_KEPT = frozenset(("self", "bundle", "classes", "classes_file", "vocabulary", "background", "encoder"))
"""What another process gets in another form, of the options of `Segmenter`."""


class Segmenter:
    """Open-vocabulary segmentation of images with one bundle.

    Calls from several threads at a time are allowed.

    Args:
        bundle: a bundle directory, an open `Bundle`, or `demo` for the one that comes with the package.
        classes: class names, one string each with synonyms after commas ("dog, puppy"); or one string of
            them: `cat; dog, puppy`; or a `Path` to a file with a line per class. A string is never taken for a file.
            Embedded by the bundle's text encoder.
        vocabulary: instead of `classes`, a `Vocabulary` or a file that `scclip embed` wrote. Without
            either, the ready vocabulary of the bundle, if it carries one.
        classes_file: instead of `classes`, a file with a line per class, by name or `Path`.
        templates: prompt templates around each name: `imagenet` (80 of them), `surgery`, `photo`, `none`, or a `Path`
            to a file; None takes the bundle's.
        background: name of the class that takes what no class claims, `none` for no such class; None takes
            the class called "background" if there is one.
        background_words: name of a list of words that find the background (`scclip_rt.vocabulary.background_words`);
            a class called "background" is added at the end where there is none. Goes with class names.
        backend: `onnxruntime`, `openvino`, `tensorrt`, `tensorrt-rtx`, or `auto` (docs/backends.md).
        device: `auto`, `cpu` or `cuda:N`.
        precision: `fp32`, `bf16`, `int8`, …; `auto` for the preset's, else the most accurate that suits the device,
            `fast` for the fastest that the bundle and the processor have.
        ort_provider: ONNX Runtime's `cpu`, `cuda`, `cuda-graphs` or `tensorrt`; None follows `device`.
        threads: CPU threads; None takes the cores this process may use.
        batch: most windows encoded at once; None takes the backend's own number.
        short_side: the short side images are resized to, unless the long side would pass the bundle's limit; pixels,
            at most that limit. None takes the bundle's.
        stride: distance between windows, pixels; None takes the bundle's. Not with whole images.
        whole_image: encode the image in one pass instead of windows, with an encoder exported for that; None: as the
            preset says, else windows.
        preset: a benchmark of the bundle, or `exact`, `balanced` or `fast`, or one of each ("voc21,fast"); their
            settings hold where none are given here (docs/performance.md).
        logit_scale: factor on cosines before the softmax; None takes the bundle's.
        prob_threshold: probability under which a pixel becomes background or unlabelled; None takes the
            bundle's.
        area_threshold: share of the labelled area up to which a class is dropped; 0 is off, None takes the
            bundle's.
        class_threshold: probability that a class's best pixel in the image needs, else the class is dropped and its
            pixels go to the best that remains (prompt denoising); None and 0 drop none.
        refine: `pamr` follows the image's edges more closely, at some cost; `none` doesn't; None takes the bundle's.
        max_pixels: largest image taken.
        max_windows: most windows of an image.
        max_memory: most bytes that segmenting one image may take, by estimate; None takes four fifths of what is free.
        cache: keep class embeddings in the cache folder.
        text_precision: of the text encoder that embeds class names: `fp32`, or `int8` where the bundle has that.
        keep_text: hold the text encoder, once a name has needed it, for the names to come: some 250 MB for a ViT-B/16.
            False lets go of it after each call that embeds.
        progress: show progress on standard error while classes are embedded.
        encoder: one that is loaded already, or runs elsewhere; the options of inference are then not looked at.

    Raises:
        ScclipError: a subclass says what is wrong with the bundle, the classes, the backend or an option.

    Example:
        >>> segment = Segmenter("vitb16.scclip", classes=["sky", "grass, lawn", "dog, puppy"])
        >>> result = segment("photo.jpg")
        >>> result.labels.shape, result.shares()
        ((375, 500), {'sky': 0.41, 'grass': 0.38, 'dog': 0.21})
        >>> result.save("out")
        [PosixPath('out/photo.labels.png'), PosixPath('out/photo.overlay.png')]
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        classes: str | os.PathLike[str] | Sequence[str | Sequence[str]] | None = None,
        classes_file: str | os.PathLike[str] | None = None,
        vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
        templates: str | os.PathLike[str] | None = None,
        background: str | None = None,
        background_words: str | None = None,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        ort_provider: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
        short_side: int | None = None,
        stride: int | None = None,
        whole_image: bool | None = None,
        preset: str | None = None,
        logit_scale: float | None = None,
        prob_threshold: float | None = None,
        area_threshold: float | None = None,
        class_threshold: float | None = None,
        refine: Literal["pamr", "none"] | None = None,
        max_pixels: int = MAX_PIXELS,
        max_windows: int = MAX_WINDOWS,
        max_memory: int | None = None,
        cache: bool = True,
        text_precision: str = "fp32",
        keep_text: bool = True,
        progress: bool = False,
        encoder: EncoderBackend | None = None,
    ) -> None:
        # What opens this segmenter again in another process: a forked child, or one that it is pickled for.
        self._options_given = {name: value for name, value in locals().items() if name not in _NOT_KEPT}
        for name, value in (
            ("threads", threads),
            ("batch", batch),
            ("short_side", short_side),
            ("stride", stride),
        ):
            if value is not None:
                in_range(name, value)
        if vocabulary is not None and templates is not None:
            raise OptionError(
                "templates go with classes: a vocabulary is embedded already. Leave one of them out",
                field="templates",
            )
        if vocabulary is not None and background_words is not None:
            raise OptionError(
                "background words go with classes: a vocabulary is embedded already. Leave one of them out",
                field="background_words",
            )
        self._has_own_encoder = encoder is not None
        self._bundle = opened = Bundle.open(Path(bundle) if isinstance(bundle, os.PathLike) else bundle)
        self._embedding = EmbeddingOptions(
            templates=templates,
            cache=cache,
            progress=progress,
            threads=threads,
            background_words=background_words,
            tower=TextTower(opened, precision=text_precision, threads=threads, keep=keep_text),
        )
        self._threads = threads
        own = opened.preset(preset)

        def first(given: _Option | None, default: _Option | None) -> _Option | None:
            return default if given is None else given

        whole = bool(first(whole_image, own.whole_image))
        if whole and stride is not None:
            raise OptionError(
                "a stride goes with windows: the image is encoded in one pass. Leave one of them out",
                field="stride",
            )
        self._options = DecodeOptions.over(
            opened.decoding,
            logit_scale=first(logit_scale, own.logit_scale),
            prob_threshold=first(prob_threshold, own.prob_threshold),
            area_threshold=first(area_threshold, own.area_threshold),
            refine=refine,
            rest_class=own.rest_class,
            class_threshold=class_threshold,
        )

        # The options first, then what takes seconds: a typing error shows at once.
        def open_encoder() -> EncoderBackend:
            main = open_backend(
                opened,
                backend=backend,
                device=device,
                precision=own.precision if precision == "auto" and own.precision else precision,
                ort_provider=ort_provider,
                threads=threads,
                batch=batch,
                grid="whole" if whole else "window",
            )
            if opened.preprocessing.padding != "patch" or whole:
                return main
            return AnySizeEncoder(main, partial(_open_for_any_size, opened, threads, batch))

        self._handle = EncoderHandle(lambda: encoder or open_encoder())
        self._prepare = _preparation(
            opened,
            self.backend,
            short_side=first(short_side, own.short_side),
            stride=first(stride, own.stride),
            max_pixels=max_pixels,
            max_windows=max_windows,
            max_memory=max_memory,
        )
        self._vocabulary: Vocabulary | None = None
        given = classes is not None or classes_file is not None or vocabulary is not None
        if given or opened.manifest.vocabularies:
            self.set_classes(classes, classes_file=classes_file, vocabulary=vocabulary, background=background)

    def __repr__(self) -> str:
        info = self.backend.describe()
        classes = "no classes" if self._vocabulary is None else f"{len(self._vocabulary)} classes"
        how = f"{info['precision']} on {info['device']} by {info['backend']}"
        return f"<Segmenter {self._bundle.name}: {how}, {classes}>"

    def __getstate__(self) -> dict[str, Any]:
        """The bundle's place, the options and the vocabulary: whoever gets it opens the bundle again."""
        if self._has_own_encoder:
            raise OptionError(
                "a segmenter with encoder= stays in its process: open one there", field="encoder"
            )
        return {
            "bundle": self._bundle.path.absolute(),
            "options": self._options_given,
            "decoding": self._options,
            "vocabulary": self._vocabulary,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vocabulary = state["vocabulary"]
        of_names = {name: state["options"][name] for name in ("templates", "background_words")}
        options = state["options"] | (dict.fromkeys(of_names) if vocabulary is not None else {})
        Segmenter.__init__(self, state["bundle"], vocabulary=vocabulary, **options)
        self._options_given, self._options = state["options"], state["decoding"]
        self._embedding = replace(self._embedding, **of_names)

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    @property
    def bundle(self) -> Bundle:
        """The bundle in use."""
        return self._bundle

    @property
    def backend(self) -> EncoderBackend:
        """The loaded encoder; `backend.describe()` says what runs where.

        In a forked process it is loaded again at the first use there, as the threads of the first are not in it.

        Raises:
            BackendError: a forked process, and the encoder is on a GPU: CUDA does not survive a fork.
        """
        return self._handle.get()

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary in use.

        Raises:
            VocabularyError: none was given yet.
        """
        if self._vocabulary is None:
            raise VocabularyError("no classes yet; pass classes= or vocabulary=, or call set_classes(…)")
        return self._vocabulary

    @property
    def preparation(self) -> Preparation:
        """How images become windows: the sizes in use."""
        return self._prepare

    @property
    def options(self) -> DecodeOptions:
        """Scale, thresholds and refinement in use."""
        return self._options

    def set_classes(
        self,
        classes: os.PathLike[str] | str | Sequence[str | Sequence[str]] | None = None,
        *,
        classes_file: str | os.PathLike[str] | None = None,
        vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
        background: str | None = None,
    ) -> None:
        """Change the vocabulary, for all calls that start from now on.

        Args:
            classes: as for `Segmenter`: a string is names, a `Path` a file.
            classes_file: instead of `classes`, a file of them.
            vocabulary: instead of `classes`.
            background: as for `Segmenter`.

        Raises:
            VocabularyError: empty, ambiguous, of another model, or no such background class.
        """
        if classes_file is not None:
            if classes is not None:
                raise OptionError("give either classes or classes_file, and not both", field="classes")
            classes = Path(classes_file)
        embedding = self._embedding
        if vocabulary is not None:
            embedding = replace(
                embedding, background_words=None
            )  # those are for names, given when it was opened
        self._vocabulary = resolve_vocabulary(
            self._bundle, embedding, classes=classes, vocabulary=vocabulary, background=background
        )

    def with_classes(
        self,
        classes: os.PathLike[str] | str | Sequence[str | Sequence[str]] | None = None,
        *,
        classes_file: str | os.PathLike[str] | None = None,
        vocabulary: str | os.PathLike[str] | Vocabulary | None = None,
        background: str | None = None,
    ) -> Self:
        """A second segmenter with another vocabulary, sharing the loaded encoder with this one."""
        other = copy.copy(self)
        other.set_classes(classes, classes_file=classes_file, vocabulary=vocabulary, background=background)
        return other

    def with_options(self, options: DecodeOptions) -> Self:
        """A second segmenter that decodes otherwise, sharing the loaded encoder and the vocabulary with this one.

        Example:
            >>> strict = segment.with_options(dataclasses.replace(segment.options, prob_threshold=0.5))
        """
        other = copy.copy(self)
        other._options = options
        return other

    def __call__(self, image: "ImageSource", *, confidence: bool = False) -> Segmentation:
        """Segment one image.

        Args:
            image: a path, the bytes of an image file, a PIL image, or a uint8 RGB array (H, W, 3); with a backend
                that decodes on the GPU also one in CUDA memory (PyCUDA, CuPy, torch, …), taken without a copy.
            confidence: also give each pixel's probability of its class.

        Raises:
            ImageError: unreadable, of another kind, or above a limit.
        """
        return self.outcome(image, confidence=confidence).unwrap()

    def outcome(
        self, image: "ImageSource", *, confidence: bool = False
    ) -> "Outcome[ImageSource, Segmentation]":
        """`__call__` with the timings; the image's error is in the outcome."""
        vocabulary, timings = self.vocabulary, Timings()
        if (path := self._device_path(vocabulary, confidence)) is not None:
            return path.outcome(image)
        try:
            with timings.measure("prepare"):
                prepared = self._prepare(image)
        except ImageError as error:
            return Outcome(image, timings, error=error)
        with timings.measure("encode"):
            encoded = Encoded.of(prepared, self.backend.features(prepared.windows))
        with timings.measure("decode"):
            result = self._decode(encoded, vocabulary, confidence, self._threads)
        return Outcome(image, timings, result=result)

    def encode(self, image: "ImageSource") -> Encoded:
        """Dense features of an image, for `decode` with any number of vocabularies, or for other uses.

        Args:
            image: a path, the bytes of an image file, a PIL image, or a uint8 RGB array (H, W, 3).

        Raises:
            ImageError: unreadable, of another kind, or above a limit.

        Example:
            >>> encoded = segment.encode("photo.jpg")
            >>> encoded.features.shape
            (6, 196, 512)
            >>> animals = segment.decode(encoded, vocabulary=load_vocabulary("animals.safetensors"))
        """
        prepared = self._prepare(image)
        return Encoded.of(prepared, self.backend.features(prepared.windows))

    def decode(
        self,
        encoded: Encoded,
        vocabulary: Vocabulary | None = None,
        *,
        confidence: bool = False,
        threads: int | None = None,
    ) -> Segmentation:
        """Label an encoded image.

        Args:
            encoded: what `encode` gave.
            vocabulary: None takes the segmenter's.
            confidence: also give each pixel's probability of its class.
            threads: None takes the segmenter's; 1 where several images are decoded at a time.

        Raises:
            VocabularyError: the vocabulary is of another model.
        """
        if vocabulary is None:
            vocabulary = self.vocabulary
        else:
            check_model(vocabulary, self._bundle)
        return self._decode(encoded, vocabulary, confidence, threads or self._threads)

    @overload
    def stream(
        self, images: "Iterable[ImageSource]", *, confidence: bool = False, errors: Literal["raise"] = "raise"
    ) -> Iterator[Segmentation]: ...

    @overload
    def stream(
        self, images: "Iterable[ImageSource]", *, confidence: bool = False, errors: Literal["yield"]
    ) -> Iterator[Segmentation | ImageError]: ...

    def stream(
        self,
        images: "Iterable[ImageSource]",
        *,
        confidence: bool = False,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Segmentation | ImageError]:
        """Segment many images, in order.

        Batches are filled across images; loading, resizing and decoding overlap the encoder. Images are read
        ahead, by a bounded number and size: for a live camera, where each result is wanted at once, call the
        segmenter instead.

        Args:
            images: any iterable of what `__call__` takes, also an endless one.
            confidence: also give each pixel's probability of its class.
            errors: `raise` an image's error in its place, which ends the stream, or `yield` it in the place
                of its result and go on.

        Yields:
            A `Segmentation` for each image (or its `ImageError`).

        Example:
            >>> for result in segment.stream(sorted(Path("photos").glob("*.jpg"))):
            ...     result.save("out")
        """
        if errors not in ("raise", "yield"):
            raise OptionError(f"errors must be 'raise' or 'yield'; got {errors!r}")
        return _results(self.outcomes(images, confidence=confidence), errors)

    def video(
        self, frames: "Iterable[ImageSource]", *, reuse: "Reuse" = "exact", confidence: bool = False
    ) -> Iterator[Segmentation]:
        """Segment the frames of one camera, one after the other as they come.

        Windows whose pixels have not changed since they were encoded keep their features (docs/video.md). Nothing is
        read ahead. All frames have the classes of when the iteration begins.

        Args:
            frames: any iterable of what `__call__` takes, also an endless one.
            reuse: `exact` keeps windows of equal pixels, so that labels are those of frame by frame; a number from 0
                to 255 keeps windows in which no value differs by more; `off` keeps none.
            confidence: also give each pixel's probability of its class.

        Yields:
            A `Segmentation` for each frame.

        Raises:
            ImageError: a frame that can't be read; it ends the iteration.

        Example:
            >>> from scclip_rt.video import read_frames
            >>> for result in segment.video(frame.image for frame in read_frames("film.mp4")):
            ...     print(result.shares())
        """
        from scclip_rt.video.reuse import FrameSegmenter

        step = FrameSegmenter(self, reuse=reuse)
        return (step(frame, confidence=confidence) for frame in frames)

    def outcomes(
        self, images: "Iterable[ImageSource]", *, confidence: bool = False
    ) -> "Iterator[Outcome[ImageSource, Segmentation]]":
        """`stream` with the timings: what `scclip segment` reports. An image's error is in its outcome."""
        vocabulary = self.vocabulary
        if (path := self._device_path(vocabulary, confidence)) is not None:
            return path.outcomes(images)

        def finish(prepared: PreparedImage, features: NDArray[np.float32]) -> Segmentation:
            # One thread: several images are decoded at a time, beside an encoder that takes all cores.
            return self._decode(Encoded.of(prepared, features), vocabulary, confidence, 1)

        encoder = self.backend
        stages: Stages[ImageSource, PreparedImage, Segmentation] = Stages(
            prepare=self._prepare,
            encode=encoder.features,
            finish=finish,
            batch=encoder.batch_size,
            expected_bytes=self._prepare.held_bytes,
        )
        return run_pipeline(stages, images)

    def _device_path(self, vocabulary: Vocabulary, confidence: bool) -> DevicePath | None:
        return device_path(self.backend, self._prepare, vocabulary, self._options, confidence)

    def _decode(
        self, encoded: Encoded, vocabulary: Vocabulary, confidence: bool, threads: int | None
    ) -> Segmentation:
        options = self._options
        shape = (encoded.image.shape[0], encoded.image.shape[1])
        refine = None
        if options.refine == "pamr":
            spec = self._bundle.preprocessing
            refine = pixel_weights(
                encoded.resized, shape, mean=spec.mean, std=spec.std, threads=self._threads
            )
        decoded = decode(
            encoded.features,
            encoded.text(
                vocabulary.embeddings, "none" if vocabulary.has_empty_text else options.class_weighting
            ),
            decode_plan(encoded.tiling, encoded.grid, shape),
            vocabulary.decode_settings(options, confidence=confidence),
            refine=refine,
            threads=threads,
        )
        return Segmentation.of(decoded, vocabulary, image=encoded.image, name=encoded.name)


def _open_for_any_size(
    bundle: Bundle, threads: int | None, batch: int | None, main: EncoderBackend
) -> EncoderBackend:
    """The encoder for windows smaller than the others: of the same precision and backend."""
    info = main.describe()
    return open_backend(
        bundle,
        backend=info["backend"],
        device=info["device"],
        precision=main.spec.precision,
        threads=threads,
        batch=batch,
        grid="whole",
    )


def _results(
    outcomes: "Iterator[Outcome[ImageSource, Segmentation]]", errors: Literal["raise", "yield"]
) -> Iterator[Segmentation | ImageError]:
    for outcome in outcomes:
        if errors == "yield" and isinstance(outcome.error, ImageError):
            yield outcome.error
        else:
            yield outcome.unwrap()


def _preparation(
    bundle: Bundle,
    encoder: EncoderBackend,
    *,
    short_side: int | None,
    stride: int | None,
    max_pixels: int,
    max_windows: int,
    max_memory: int | None,
) -> Preparation:
    spec = bundle.preprocessing
    return Preparation(
        grid=encoder.spec.grid,
        patch=bundle.model.patch_size,
        embed_dim=bundle.model.embed_dim,
        short_side=spec.short_side if short_side is None else short_side,
        long_side=spec.long_side,
        window=spec.window,
        stride=spec.stride if stride is None else stride,
        max_pixels=max_pixels,
        max_windows=max_windows,
        max_memory=max_memory,
        cost=EncoderCost(
            heads=bundle.model.heads, width=bundle.model.width, batch=max(encoder.batch_size, 1)
        ),
        padding=spec.padding,
        whole_image=spec.whole_image,
    )
