"""`scclip serve`: bundles over HTTP (KServe v2, plain, labelling tools, a page) and gRPC."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scclip_rt.cli.options import (
    PRESET_HELP,
    add_backend_options,
    add_prompt_options,
    backend_settings,
    class_source,
    template_source,
    text_precision,
)
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import OptionError, install

_DESCRIPTION = """\
Serve bundles: KServe v2 (Triton's clients), a plain HTTP way, Label Studio, X-AnyLabeling, and a page at /.

Each model's name in URLs is its bundle's, or what you call it. A bundle that is replaced on disk is loaded
beside the old one and takes its place when it is warm. The first SIGTERM or Ctrl-C lets accepted requests finish,
the second ends at once. docs/serving.md has the routes, the status codes and the metrics.
"""

_EPILOG = """\
examples:
  scclip serve demo
  scclip serve vitb16.scclip --classes "sky; grass, lawn; dog, puppy" --port 9000
  scclip serve --bundle base=vitb16.scclip --bundle large=vitl14.scclip --vocabulary voc=voc.safetensors
  scclip serve vitb16.scclip --host 0.0.0.0 --api-key-file key.txt --workers 4
  curl -F image=@photo.jpg --form-string classes="sky; dog" http://127.0.0.1:8000/v1/segment -o labels.png
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(subparsers, "serve", run, "serve bundles over HTTP and gRPC", _DESCRIPTION, _EPILOG)
    add_bundle(parser, nargs="?")
    _add_model_options(parser)
    _add_network_options(parser)
    _add_limit_options(parser)
    add_backend_options(parser)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "models and classes")
    group.text("--model-name", "NAME", "BUNDLE's name in URLs (default: its own)")
    group.text(
        "--bundle",
        "NAME=PATH",
        "serve this one, too, under NAME; again for each",
        dest="bundles",
        action="append",
        default=[],
    )
    group.text(
        "--classes",
        "FILE|NAMES",
        "classes of requests that name none (default: the bundle's own, if it carries some)",
    )
    group.text(
        "--vocabulary",
        "NAME=FILE",
        "embedded classes, written by `scclip embed`, that requests may ask for by NAME; again for each",
        dest="vocabularies",
        action="append",
        default=[],
    )
    add_prompt_options(group)
    group.text("--background", "NAME", "the background among --classes, or none")
    group.number("--short-side", "PIXELS", "resize the short side to this")
    group.number("--stride", "PIXELS", "distance between windows")
    group.text("--preset", "NAME", PRESET_HELP)
    group.number(
        "--watch",
        "SECONDS",
        "look this often whether a bundle was replaced; 0: never (default: %(default)s)",
        default=2.0,
    )


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "network")
    group.text("--host", "ADDRESS", "default: %(default)s, this machine", default="127.0.0.1")
    group.number("--port", "N", "0: a free one (default: %(default)s)", default=8000)
    group.number("--grpc-port", "N", "also speak KServe's gRPC there (extra serve-grpc)")
    group.number("--workers", "N", "processes, which share the threads (default: 1)", default=1)
    group.file("--api-key-file", "FILE", "clients must send the key that is its first line")
    group.text(
        "--cors",
        "ORIGIN",
        "pages from there may call the server (default: none)",
        action="append",
        default=[],
    )
    group.text("--label-studio", "URL", "fetch the images that Label Studio's tasks name from there")
    group.file("--label-studio-token-file", "FILE", "its access token")
    group.number(
        "--grace", "SECONDS", "time for accepted requests after SIGTERM (default: %(default)s)", default=30.0
    )
    group.flag("--no-access-log", "no line of JSON for each request")


def _add_limit_options(parser: argparse.ArgumentParser) -> None:
    group = Options(parser, "limits")
    group.number(
        "--max-queue", "N", "images at a time, the next get 503 (default: 64)", limit="queue", default=64
    )
    group.number("--timeout", "SECONDS", "deadline, then 504 (default: 30)", default=30.0)
    group.number("--max-bytes", "N", "of a request, above: 413 (default: 32 Mi)", default=32 << 20)
    group.number("--max-pixels", "N", "of an image, above: 413 (default: 50 M)", default=50_000_000)
    group.number("--max-classes", "N", "names of a request (default: 1000)", default=1000)
    group.number(
        "--max-embeddings",
        "N",
        "class lists embedded at a time (default: %(default)s)",
        limit="embeddings",
        default=2,
    )
    group.number(
        "--cache-mb",
        "N",
        "memory for images just encoded, which need no encoding with other classes; 0: off (default: 128)",
        default=128,
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    settings, options = parse(args)
    from scclip_rt.serving.server import serve

    serve(settings, options)
    return 0


def parse(args: argparse.Namespace) -> tuple[Any, Any]:
    """The command line as `ServeSettings` and `ServerOptions`, with every bundle looked at.

    Raises:
        ScclipError: what can be known to be wrong before anything is loaded.
    """
    try:
        from scclip_rt.serving.server import ServerOptions
        from scclip_rt.serving.settings import Limits, ServeSettings
    except ModuleNotFoundError as error:
        raise OptionError(f"serving needs the package {error.name!r}: {install('serve')}") from error
    options = ServerOptions(
        host=args.host,
        port=args.port,
        grpc_port=args.grpc_port,
        workers=args.workers,
        grace=args.grace,
        access_log=not args.no_access_log,
    )
    settings = ServeSettings(
        models=_models(args),
        classes=_classes(args),
        vocabularies={name: Path(file) for name, file in map(_pair, args.vocabularies)},
        templates=template_source(args),
        background=args.background,
        text_precision=text_precision(args),
        **backend_settings(args),
        short_side=args.short_side,
        stride=args.stride,
        preset=args.preset,
        limits=Limits(
            queue=args.max_queue,
            timeout=args.timeout,
            max_bytes=args.max_bytes,
            max_pixels=args.max_pixels,
            max_classes=args.max_classes,
            embeddings=args.max_embeddings,
            cache_bytes=args.cache_mb << 20,
        ),
        api_key=_first_line(args.api_key_file),
        cors=tuple(args.cors),
        label_studio=None if args.label_studio is None else args.label_studio.rstrip("/"),
        label_studio_token=_first_line(args.label_studio_token_file),
        watch=args.watch,
    )
    if args.grpc_port is not None:
        _check_grpc()
    return settings, options


def _models(args: argparse.Namespace) -> tuple[Any, ...]:
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.serving.asgi import model_name
    from scclip_rt.serving.settings import ModelSource

    pairs: list[tuple[str | None, str]] = [] if args.bundle is None else [(args.model_name, args.bundle)]
    pairs += [_pair(text) for text in args.bundles]
    if not pairs:
        raise OptionError("name a bundle to serve (demo is the packaged one), or --bundle NAME=PATH")
    return tuple(
        ModelSource(name=model_name(bundle.name) if name is None else name, path=path)
        for name, path, bundle in ((name, path, Bundle.open(path)) for name, path in pairs)
    )


def _classes(args: argparse.Namespace) -> str | Path | None:
    """A list that a file holds is read by each process itself; the path must not depend on where that starts."""
    source = class_source(args)
    return source.absolute() if isinstance(source, Path) else source


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name or not value:
        raise OptionError(f"give NAME=PATH; got {text!r}")
    return name, value


def _first_line(path: Path | None) -> str | None:
    """A secret out of a file, so that no process list shows it.

    Raises:
        OptionError: the file can't be read, or is empty.
    """
    if path is None:
        return None
    try:
        lines: Sequence[str] = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"can't read {path}: {getattr(error, 'strerror', None) or error}") from error
    secret = lines[0].strip()
    if not secret:
        raise OptionError(f"{path} is empty; write the key on its first line")
    if not (secret.isascii() and secret.isprintable()):
        raise OptionError(f"{path}: a key goes into a header, which takes printable ASCII characters only")
    return secret


def _check_grpc() -> None:
    try:
        import grpc  # noqa: F401
    except ModuleNotFoundError as error:
        raise OptionError(f"--grpc-port needs gRPC: {install('serve-grpc')}") from error
