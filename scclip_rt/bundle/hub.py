"""Bundles on the Hugging Face Hub: `hf://OWNER/NAME@REVISION` to a folder in its cache."""

import re
from pathlib import Path

from scclip_rt.errors import BundleError, install

HUB_SCHEME = "hf://"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def hub_folder(name: str) -> Path:
    """The folder of a bundle on the hub, downloaded if the cache does not have it.

    `HF_HUB_OFFLINE`, `HF_HOME` and the other settings of huggingface_hub hold. Without a connection, what the cache
    has is taken.

    Raises:
        BundleError: another form, huggingface_hub is not installed, or there is no such repository or revision.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise BundleError(
            f"{name!r} names no bundle on the hub; the form is hf://OWNER/NAME or hf://OWNER/NAME@REVISION",
            field="bundle",
        )
    repository, revision = match.groups()
    try:
        import huggingface_hub
    except ImportError as error:
        raise BundleError(
            f"{name} needs huggingface_hub; install it with: {install('hub')}", field="bundle"
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision))
    except Exception as error:  # of the hub, of the connection, of the disk; their bases differ by version
        try:
            return Path(
                huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
            )
        except Exception:
            reason = " ".join(str(error).split())[:200]
            raise BundleError(
                f"{name}: can't be fetched and is not in the cache: {reason}. Check the name, the connection and, for "
                "a private one, `hf auth login`",
                field="bundle",
            ) from error
