"""What a builder says while it works: its log and its progress, as lines for people."""

import time
from typing import Any

from scclip_export.engines.request import Progress

_HEARTBEAT_SECONDS = 10.0
_MAX_WARNINGS, _MAX_LENGTH = 8, 300
_LAYERS = "Layers:"


def make_logger(trt: Any, progress: Progress) -> Any:
    """An ILogger of the library `trt` that passes warnings and errors on, each once, and keeps INFO and above.

    Its `lines` holds (severity, message); `errors()` gives the messages of errors. `layers` is the list of an engine's
    layers that TensorRT-RTX logs where its configuration asks for details, else "".
    """
    shown_from = trt.ILogger.Severity.WARNING

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[str, str]] = []
            self.layers = ""
            self._shown: set[str] = set()

        def log(self, severity: Any, message: str) -> None:
            # Called from the builder's threads: appending to a list is safe there.
            if int(severity) > int(trt.ILogger.Severity.INFO):
                if message.startswith(_LAYERS):
                    self.layers = message
                return
            message = " ".join(message.split())
            self.lines.append((severity.name, message))
            if (
                int(severity) <= int(shown_from)
                and message not in self._shown
                and len(self._shown) < _MAX_WARNINGS
            ):
                self._shown.add(message)
                progress(f"{severity.name.lower()}: {message[:_MAX_LENGTH]}")

        def errors(self) -> list[str]:
            errors = (text for severity, text in self.lines if severity in ("ERROR", "INTERNAL_ERROR"))
            return list(dict.fromkeys(errors))

    return Logger()


def make_monitor(trt: Any, progress: Progress) -> Any | None:
    """An IProgressMonitor that tells of each new phase, and of steps every ten seconds; None if `trt` has none.

    Ctrl-C during a build arrives inside a callback. An exception there would cross C++ frames, so it is kept
    (`interrupted`) and the build told to stop.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self._steps: dict[str, int] = {}
            self._told: set[str] = set()
            self._last = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                self._steps[phase_name] = num_steps
                if parent_phase is not None and phase_name not in self._told:
                    self._told.add(phase_name)
                    progress(f"  {phase_name}")
            except KeyboardInterrupt:
                self.interrupted = True

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                now = time.monotonic()
                if now - self._last > _HEARTBEAT_SECONDS:
                    self._last = now
                    progress(f"  {phase_name}: {step + 1} of {self._steps.get(phase_name, 0)}")
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
