"""Remember SIGTERM and Ctrl-C during training, so that the loop can save and end between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal ended training between two steps; the run is saved."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signal_number).name} after step {step}")
        self.signal_number, self.step = signal_number, step


class SignalWatch:
    """Inside the `with` block, the first SIGTERM or SIGINT is only remembered; a second one acts as usual."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> SignalWatch:
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
