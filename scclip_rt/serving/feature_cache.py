"""Images that were just encoded, by the hash of their bytes: another vocabulary needs no second encoding."""

import hashlib
import threading
from collections import OrderedDict

from scclip_rt.encoded import Encoded
from scclip_rt.serving.images import WireImage


class FeatureCache:
    """The most recent encoded images, up to a number of bytes. Methods may be called from several threads.

    Args:
        capacity: bytes kept; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._entries: OrderedDict[bytes, Encoded] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes kept now."""
        return self._held

    def key(self, image: WireImage, owner: bytes) -> bytes | None:
        """What an image is found by under the loaded model `owner`; None if nothing is kept anyway."""
        if self._capacity == 0:
            return None
        # A file may hold what a picture's pixels are, and the same pixels make a wide and a tall picture.
        kind = "file" if isinstance(image, bytes) else repr(image.shape)
        found = hashlib.sha256(kind.encode())
        found.update(image if isinstance(image, bytes) else image.ravel().data)
        return found.digest() + owner

    def get(self, key: bytes | None) -> Encoded | None:
        """The image, if it is here."""
        if key is None:
            return None
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: bytes | None, encoded: Encoded) -> None:
        """Keep an image; the oldest go."""
        size = _size(encoded)
        if key is None or size > self._capacity:
            return
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = encoded
            self._held += size
            while self._held > self._capacity:
                _, old = self._entries.popitem(last=False)
                self._held -= _size(old)

    def forget(self, owner: bytes) -> None:
        """Drop what a model that goes away has encoded."""
        with self._lock:
            for key in [key for key in self._entries if key.endswith(owner)]:
                self._held -= _size(self._entries.pop(key))


def _size(encoded: Encoded) -> int:
    return encoded.features.nbytes + encoded.image.nbytes + encoded.resized.nbytes
