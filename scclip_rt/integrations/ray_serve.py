"""Ray Serve: `scclip serve` as a deployment, one service a replica.

    serve run scclip_rt.integrations.ray_serve:build bundle=vitb16.scclip classes="sky; grass; dog"

or by a config file (docs/ray.md). All routes of docs/serving.md are there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scclip_rt.errors import OptionError
from scclip_rt.serving.settings import Limits, ModelSource, ServeSettings

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "SegmentService"
"""Of the deployment, for config files."""
_REPLICA = ("num_replicas", "num_cpus", "num_gpus")
_NUMBERS = {"threads": int, "batch": int, "short_side": int, "stride": int, "watch": float}


def build(args: Mapping[str, Any]) -> Application:
    """An application for `serve run` and for the `import_path` of a config file.

    Args:
        args: `bundle`, which every machine sees; further fields of `ServeSettings` (`classes`, `precision`, `threads`,
            …) and `Limits` (`queue`, `timeout`, …); `num_replicas`, `num_cpus` and `num_gpus` of each. On a command
            line values are texts. `threads` follows `num_cpus` unless given.

    Raises:
        OptionError: an argument that nobody knows, or without its bundle.
    """
    from ray import serve

    settings = settings_from(args)
    cpus, gpus = float(args.get("num_cpus", 1)), float(args.get("num_gpus", 0))

    wrap: Any = serve.deployment(
        name=NAME,
        num_replicas=int(args.get("num_replicas", 1)),
        max_ongoing_requests=settings.limits.queue,
        max_queued_requests=settings.limits.queue,  # else Serve lets any number wait
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
    )
    application: Application = wrap(serve.ingress(lambda: ready_app(settings))()).bind()
    return application


def settings_from(args: Mapping[str, Any]) -> ServeSettings:
    """The settings of each replica's service.

    Raises:
        OptionError: an argument that nobody knows, without its bundle, or outside its range.
    """
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.serving.asgi import model_name

    limits: dict[str, Any] = {field.name: type(field.default) for field in fields(Limits)}
    own = {field.name for field in fields(ServeSettings)} - {"models", "limits", "shared"}
    if unknown := sorted(set(args) - {"bundle", *_REPLICA, *limits, *own}):
        known = ", ".join(sorted({"bundle", *_REPLICA, *limits, *own}))
        raise OptionError(f"unknown argument {unknown[0]!r}; known: {known}")
    if "bundle" not in args:
        raise OptionError("bundle=PATH is missing: what to serve, where every machine sees it")
    bundle = str(args["bundle"])
    values = {name: _NUMBERS.get(name, lambda value: value)(args[name]) for name in own & set(args)}
    values.setdefault("threads", max(1, int(float(args.get("num_cpus", 1)))))
    for name in ("classes", "cors"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if "vocabularies" in values:
        values["vocabularies"] = {name: Path(path) for name, path in values["vocabularies"].items()}
    return ServeSettings(
        models=(ModelSource(name=model_name(Bundle.open(bundle).name), path=bundle),),
        limits=Limits(**{name: limits[name](args[name]) for name in limits.keys() & args.keys()}),
        **values,
    )


def ready_app(settings: ServeSettings) -> Any:
    """The service as an ASGI application, with its bundle loaded and warm: Serve sends requests from then on.

    Raises:
        ScclipError: the bundle can't be loaded; the replica fails to start, and Serve shows this.
    """
    from scclip_rt.serving.asgi import application
    from scclip_rt.serving.service import Service

    service = Service(settings)
    while not service.ready:
        if service.failed is not None:
            raise service.failed
        time.sleep(0.05)
    return application(service)
