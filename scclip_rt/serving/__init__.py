"""A bundle as a service: `scclip serve`, and the same as an ASGI application (docs/serving.md).

    from scclip_rt.serving import app

    api = FastAPI()
    api.mount("/segment", app("vitb16.scclip", classes=["sky", "grass, lawn", "dog, puppy"]))

Needs the extra `serve`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scclip_rt.serving.asgi import app
    from scclip_rt.serving.settings import Limits, ModelSource, ServeSettings

__all__ = ["Limits", "ModelSource", "ServeSettings", "app"]


def __getattr__(name: str) -> object:
    if name == "app":
        from scclip_rt.serving.asgi import app

        return app
    if name in __all__:
        from scclip_rt.serving import settings

        return getattr(settings, name)
    raise AttributeError(f"module 'scclip_rt.serving' has no attribute {name!r}")
