"""What a user should know beside the result: a line on standard error."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scclip_rt.errors import printable

if TYPE_CHECKING:
    from scclip_rt.bundle.bundle import Bundle
    from scclip_rt.vocabulary.file import Vocabulary


def note(text: str) -> None:
    """A line on standard error that is no error."""
    print(f"scclip: note: {printable(text)}", file=sys.stderr)


def tell_names_that_demo_does_not_know(bundle: "Bundle", vocabulary: "Vocabulary") -> None:
    """The demo model was trained on 24 rendered materials; asked for anything else, it answers with nonsense."""
    if bundle.name != "demo" or bundle.model.backbone is not None:
        return
    own = (Path(__file__).parents[1] / "demo/classes.txt").read_text("utf-8").splitlines()
    if {name.lower() for name in vocabulary.queries} <= set(own):
        return
    from scclip_rt.demo.materials import MATERIALS  # 6 ms

    known = {name.lower() for material in MATERIALS for name in (material.name, *material.synonyms)}
    other = [
        name for name in vocabulary.queries if name.lower() not in known and name.lower() != "background"
    ]
    if other:
        listed = ", ".join(repr(name) for name in other[:3]) + (" and others" if len(other) > 3 else "")
        note(
            f"the demo model knows {len(MATERIALS)} rendered materials ({', '.join(m.name for m in MATERIALS[:5])}, …) "
            f"and not {listed}: expect nonsense there, and on photos. For those, export a real CLIP: "
            "scclip-export --backbone vitb16"
        )
