"""`scclip inspect`: what a bundle is, and whether every byte of it is as it was exported."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scclip_rt.backends.choose import choose, engine_machine
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.bundle.engine_fit import (
    Engine,
    Library,
    Machine,
    UnreadableEngine,
    damage,
    misfit,
    read_engines,
    rebuild_command,
)
from scclip_rt.bundle.manifest import BenchmarkSpec, EncoderSpec, GraphSpec
from scclip_rt.bundle.model_card import model_card
from scclip_rt.cli.options import add_output_options, check_json_target, tell
from scclip_rt.cli.parsers import Options, add_bundle, add_command
from scclip_rt.errors import BackendError, printable
from scclip_rt.files import atomic_path, check_replaceable
from scclip_rt.vocabulary.embedding import embedding_cache_directory

_DESCRIPTION = """\
Show what a bundle holds, and check all of it: the manifest, every file's SHA-256, and that the
graphs' tensors are what the manifest says. Exit code 2 if anything differs. Of each engine it says
whether it fits this machine, and else why not.
"""

_EPILOG = """\
examples:
  scclip inspect vitb16.scclip
  scclip inspect --json=report.json vitb16.scclip
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Register the command."""
    parser = add_command(subparsers, "inspect", run, "show and check a bundle", _DESCRIPTION, _EPILOG)
    add_bundle(parser)
    options = Options(parser)
    options.file(
        "--model-card",
        "FILE",
        "also write a model card for the Hugging Face Hub, made from bundle.json (docs/hub.md)",
    )
    add_output_options(parser, force=True)


def run(args: argparse.Namespace) -> int:
    """Check the bundle and print it."""
    check_json_target(args.json, force=args.force)
    if args.model_card is not None:
        check_replaceable(args.model_card, force=args.force)
    bundle = Bundle.open(args.bundle)
    bundle.verify_all()
    checked, engines = _check_graphs(bundle), _engines(bundle)
    if args.model_card is not None:
        with atomic_path(args.model_card, force=args.force) as temporary:
            temporary.write_text(model_card(bundle), "utf-8")
    # Names and reasons come out of files: none may hold what a terminal would obey.
    text = "\n".join(map(printable, _lines(bundle, checked, engines)))
    tell(_document(bundle, checked, engines), text, args.json, force=args.force)
    return 0


def _check_graphs(bundle: Bundle) -> list[str]:
    """Names of the graphs whose tensors were compared with the manifest.

    Only those that the CPU provider can load: fp16 and bf16 graphs need a GPU.
    """
    from scclip_rt.backends.onnxruntime.session import create_session

    graphs: list[GraphSpec] = [spec for spec in bundle.encoders if spec.precision in ("fp32", "int8")]
    graphs += [graph for text in bundle.text_encoder.precisions.values() for graph in text.graphs]
    for spec in graphs:
        create_session(bundle, spec, threads=1, optimize=False)
    return [spec.file for spec in graphs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _EngineState:
    """An engine, why it can't serve on this machine (None: it can), and whether building it again would help."""

    engine: Engine | UnreadableEngine
    reason: str | None
    rebuild: bool = False


def _engines(bundle: Bundle) -> list[_EngineState]:
    """Hold every engine against the bundle, then against the library and the GPU of this machine."""
    machines: dict[Library, Machine | str] = {}
    states = []
    for engine in read_engines(bundle):
        if isinstance(engine, UnreadableEngine):
            states.append(_EngineState(engine=engine, reason=engine.reason))
            continue
        if engine.library not in machines:
            try:
                machines[engine.library] = engine_machine(engine.library)
            except BackendError as error:
                machines[engine.library] = str(error)
        machine = machines[engine.library]
        flaw = misfit(bundle, engine, machine if isinstance(machine, Machine) else None) or damage(
            bundle, engine
        )
        absent = machine if isinstance(machine, str) else None
        states.append(_EngineState(engine=engine, reason=flaw or absent, rebuild=flaw is not None))
    return states


def _document(bundle: Bundle, checked: list[str], engines: list[_EngineState]) -> dict[str, Any]:
    return {
        "schema": "scclip-inspect/1",
        "path": str(bundle.path),
        "hashes_match": True,
        "graphs_checked": checked,
        "engines": [
            asdict(state.engine) | {"fits_this_machine": state.reason is None, "reason": state.reason}
            for state in engines
        ],
        "manifest": asdict(bundle.manifest),
    }


def _engine(bundle: Bundle, state: _EngineState) -> Iterator[str]:
    engine = state.engine
    yield f"engine {engine.sidecar.removesuffix('.json')}"
    if isinstance(engine, UnreadableEngine):
        yield from _table([("refused", engine.reason)])
        yield ""
        return
    device = f" on {engine.device}" if engine.device else ""
    spans = ", ".join(
        f"{axis} {low}–{high} (tuned for {opt})" for axis, (low, opt, high) in engine.profile.items()
    )
    yield from _table(
        [
            (
                "built by",
                f"{engine.library} {engine.library_version}{device}",
            ),
            ("from", f"{engine.source}, {engine.precision}, {engine.grid}"),
            ("runs on", f"compute capability {', '.join(engine.compute_capabilities)}"),
            ("takes", spans),
            *(
                (f"{stage} layers", "; ".join(f"{kind} {_pairs(counts)}" for kind, counts in kinds.items()))
                for stage, kinds in engine.layer_precisions.items()
            ),
            ("here", "fits this machine" if state.reason is None else f"refused: {state.reason}"),
            *([("again", rebuild_command(bundle, engine))] if state.rebuild else []),
        ]
    )
    yield ""


def _lines(bundle: Bundle, checked: list[str], engines: list[_EngineState]) -> Iterator[str]:
    manifest, model = bundle.manifest, bundle.model
    sizes = [spec.bytes for spec in manifest.files.values()]
    trained = model.pretrained or "from a file"
    yield f"{bundle.path}: {bundle.name}, format {manifest.format_version}"
    yield from _table(
        [
            ("files", f"{len(sizes)} with {_size(sum(sizes))}; every SHA-256 matches"),
            ("model", f"{model.architecture} ({trained}), {model.activation}, patch {model.patch_size}"),
            (
                "",
                f"{model.layers} blocks, {model.heads} heads, width {model.width}, embeddings {model.embed_dim}",
            ),
            ("checkpoint", f"SHA-256 {model.checkpoint_sha256}"),
            *_settings(bundle),
            *(("assumed", assumption) for assumption in model.assumptions),
            ("calibration", _pairs(manifest.calibration)),
            ("images", _preprocessing(bundle)),
            ("decoding", _pairs(asdict(manifest.decoding))),
            *(("preset", f"{name}: {_own(spec)}") for name, spec in sorted(manifest.benchmarks.items())),
            ("made with", _pairs(manifest.created_with)),
            *(("runs here", line) for line in _choices(bundle)),
            (
                "names",
                f"embeddings are kept in {embedding_cache_directory() or 'no folder: this user has no home'}",
            ),
        ]
    )
    yield ""
    for encoder in manifest.encoders:
        yield from _graph(bundle, encoder, "encoder", _encoder_facts(encoder), checked)
    text = manifest.text_encoder
    for precision, graphs in text.precisions.items():
        facts = f"{precision}, up to {text.context_length} tokens, model {text.model_sha256[:12]}"
        yield from _graph(bundle, graphs, "text encoder", facts, checked)
        if graphs.resumed is not None:
            facts = f"{precision}, the same from known beginnings of texts"
            yield from _graph(bundle, graphs.resumed, "text encoder", facts, checked)
    for state in engines:
        yield from _engine(bundle, state)
    yield "files"
    rows = [(name, _size(spec.bytes), spec.sha256[:16]) for name, spec in sorted(manifest.files.items())]
    yield from _table(rows)


def _settings(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """What no tensor tells, and who told it; a bundle that does not know is told how to find out."""
    model, images, sources = bundle.model, bundle.preprocessing, bundle.model.sources
    values: dict[str, object] = {
        "mean": images.mean,
        "std": images.std,
        "activation": model.activation,
        "heads": model.heads,
    }
    for name, value in values.items():
        shown = f"[{', '.join(f'{number:.3f}' for number in value)}]" if isinstance(value, tuple) else value
        yield name, f"{shown} ({'source not recorded' if sources is None else sources.get(name, '?')})"
    if sources is None:
        yield (
            "to check",
            "this bundle does not tell where these came from. Export its checkpoint again by the model's name "
            "(--backbone, or --model and --pretrained) and compare: what contradicts is refused",
        )


def _choices(bundle: Bundle) -> Iterator[str]:
    """What `--precision auto` and `fast` would take on this machine."""
    if bundle.encoders_for("window"):
        for precision in ("auto", "fast"):
            choice = choose(bundle, precision=precision)
            yield f"{precision}: {choice.precision} on {choice.backend} ({choice.reason})"


def _preprocessing(bundle: Bundle) -> str:
    p = bundle.preprocessing
    sides = f"short side {p.short_side}, long side up to {p.long_side}"
    windows = f"{sides}; windows of {p.window} pixels every {p.stride}"
    if p.padding == "patch":
        return f"{windows}; these and whole images are padded to whole patches"
    if p.whole_image == "floor":
        return f"{windows}; of whole images, what lies beyond the last whole patch is left out"
    return windows


def _encoder_facts(encoder: EncoderSpec) -> str:
    where = [*encoder.runs_on, *(["cuda from ONNX Runtime 1.31 on"] if encoder.has_attention else [])]
    return f"{encoder.precision}, {encoder.grid}, opset {encoder.opset}, runs on {' and '.join(where)}"


def _graph(bundle: Bundle, spec: GraphSpec, title: str, facts: str, checked: list[str]) -> Iterator[str]:
    yield f"{title} {spec.file} ({facts})"
    rows = [("in", str(tensor)) for tensor in spec.inputs] + [("out", str(tensor)) for tensor in spec.outputs]
    rows.append(("weights", ", ".join(sorted(bundle.data_files(spec.file))) or "inside"))
    state = "agree with the manifest" if spec.file in checked else "not compared: needs a GPU to load"
    rows.append(("tensors", state))
    rows += [("parity" if i == 0 else "", line) for i, line in enumerate(_parity(spec.parity))]
    yield from _table(rows)
    yield ""


def _parity(parity: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in parity.items():
        if isinstance(value, Mapping):
            yield from _parity(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {_value(value)}"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in values.items())


def _own(benchmark: BenchmarkSpec) -> str:
    """What a benchmark changes."""
    return (
        _pairs({name: value for name, value in asdict(benchmark).items() if value is not None}) or "nothing"
    )


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return "off" if value is None else str(value)


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows with aligned columns, indented by two."""
    table = list(rows)
    if not table:
        return
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  " + "  ".join([*cells, row[-1]]).rstrip()
