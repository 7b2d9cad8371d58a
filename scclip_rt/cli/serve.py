"""`scclip serve`: bundles over HTTP (KServe v2, plain, labelling tools, a page) and gRPC."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scclip_rt.cli.image_options import number
from scclip_rt.cli.options import add_backend_options, class_source, template_source
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
    parser = subparsers.add_parser(
        "serve",
        help="serve bundles over HTTP and gRPC",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", help="bundle directory, or demo for the packaged one"
    )
    _add_model_options(parser)
    _add_network_options(parser)
    _add_limit_options(parser)
    add_backend_options(parser)
    parser.set_defaults(run=run)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models and classes")
    group.add_argument("--model-name", metavar="NAME", help="BUNDLE's name in URLs (default: its own)")
    group.add_argument(
        "--bundle",
        dest="bundles",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="serve this one, too, under NAME; again for each",
    )
    group.add_argument(
        "--classes",
        metavar="FILE|NAMES",
        help="classes of requests that name none (default: the bundle's own, if it carries some)",
    )
    group.add_argument(
        "--vocabulary",
        dest="vocabularies",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="embedded classes, written by `scclip embed`, that requests may ask for by NAME; again for each",
    )
    group.add_argument(
        "--templates",
        metavar="NAME|FILE",
        help="prompts around names (default: imagenet)",
    )
    group.add_argument("--background", metavar="NAME", help="the background among --classes, or none")
    group.add_argument(
        "--short-side", metavar="PIXELS", type=number("short_side"), help="resize the short side to this"
    )
    group.add_argument("--stride", metavar="PIXELS", type=number("stride"), help="distance between windows")
    group.add_argument(
        "--watch",
        metavar="SECONDS",
        type=number("watch"),
        default=2.0,
        help="look this often whether a bundle was replaced; 0: never (default: %(default)s)",
    )


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="default: %(default)s, this machine"
    )
    group.add_argument(
        "--port", metavar="N", type=number("port"), default=8000, help="0: a free one (default: %(default)s)"
    )
    group.add_argument(
        "--grpc-port",
        metavar="N",
        type=number("grpc_port"),
        help="also speak KServe's gRPC there (extra serve-grpc)",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=number("workers"),
        default=1,
        help="processes, which share the threads (default: 1)",
    )
    group.add_argument(
        "--api-key-file", metavar="FILE", type=Path, help="clients must send the key that is its first line"
    )
    group.add_argument(
        "--cors",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="pages from there may call the server (default: none)",
    )
    group.add_argument(
        "--label-studio", metavar="URL", help="fetch the images that Label Studio's tasks name from there"
    )
    group.add_argument("--label-studio-token-file", metavar="FILE", type=Path, help="its access token")
    group.add_argument(
        "--grace",
        metavar="SECONDS",
        type=number("grace"),
        default=30.0,
        help="time for accepted requests after SIGTERM (default: %(default)s)",
    )
    group.add_argument("--no-access-log", action="store_true", help="no line of JSON for each request")


def _add_limit_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-queue",
        metavar="N",
        type=number("queue"),
        default=64,
        help="images at a time, the next get 503 (default: 64)",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=number("timeout"),
        default=30.0,
        help="deadline, then 504 (default: 30)",
    )
    group.add_argument(
        "--max-bytes",
        metavar="N",
        type=number("max_bytes"),
        default=32 << 20,
        help="of a request, above: 413 (default: 32 Mi)",
    )
    group.add_argument(
        "--max-pixels",
        metavar="N",
        type=number("max_pixels"),
        default=50_000_000,
        help="of an image, above: 413 (default: 50 M)",
    )
    group.add_argument(
        "--max-classes",
        metavar="N",
        type=number("max_classes"),
        default=1000,
        help="names of a request (default: 1000)",
    )
    group.add_argument(
        "--max-embeddings",
        metavar="N",
        type=number("embeddings"),
        default=2,
        help="class lists embedded at a time (default: %(default)s)",
    )
    group.add_argument(
        "--cache-mb",
        metavar="N",
        type=number("cache_mb"),
        default=128,
        help="memory for images just encoded, which need no encoding with other classes; 0: off (default: 128)",
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
        templates=template_source(args) or "imagenet",
        background=args.background,
        backend=args.backend,
        device=args.device,
        precision=args.precision,
        ort_provider=args.ort_provider,
        threads=args.threads,
        batch=args.batch,
        short_side=args.short_side,
        stride=args.stride,
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
    return secret


def _check_grpc() -> None:
    try:
        import grpc  # noqa: F401
    except ModuleNotFoundError as error:
        raise OptionError(f"--grpc-port needs gRPC: {install('serve-grpc')}") from error
