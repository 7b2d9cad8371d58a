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
from scclip_rt.limits import LIMITS, parse_number
from scclip_rt.serving.settings import Limits, ModelSource, ServeSettings

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "SegmentService"
"""Of the deployment, for config files."""
_REPLICA = {"num_replicas": 1, "num_cpus": 1, "num_gpus": 0}


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
    replicas, cpus, gpus = (
        parse_number(name, str(args.get(name, usual))) for name, usual in _REPLICA.items()
    )

    wrap: Any = serve.deployment(
        name=NAME,
        num_replicas=int(replicas),
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

    limits = {field.name for field in fields(Limits)}
    own = {field.name for field in fields(ServeSettings)} - {"models", "limits", "shared"}
    if unknown := sorted(set(args) - {"bundle", *_REPLICA, *limits, *own}):
        known = ", ".join(sorted({"bundle", *_REPLICA, *limits, *own}))
        raise OptionError(f"unknown argument {unknown[0]!r}; known: {known}")
    if "bundle" not in args:
        raise OptionError("bundle=PATH is missing: what to serve, where every machine sees it")
    bundle = str(args["bundle"])
    given: dict[str, Any] = {
        name: parse_number(name, str(value)) if name in LIMITS else value for name, value in args.items()
    }
    values = {name: given[name] for name in own & set(given)}
    values.setdefault("threads", max(1, int(given.get("num_cpus", 1))))
    for name in ("classes", "cors"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if "vocabularies" in values:
        values["vocabularies"] = {name: Path(path) for name, path in values["vocabularies"].items()}
    return ServeSettings(
        models=(ModelSource(name=model_name(Bundle.open(bundle).name), path=bundle),),
        limits=Limits(**{name: given[name] for name in limits & set(given)}),
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
