"""What a run tells while it works. One typed stream drives the terminal, the live viewer and the tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Event", "Finished", "StageProgress", "StepDone", "Warned"]


@dataclass(frozen=True)
class StageProgress:
    """A stage before the optimisation: `what` is a short present participle ("matching photos"), `done` a share in [0, 1]."""

    what: str
    done: float


@dataclass(frozen=True)
class StepDone:
    """One optimisation step. Loss and PSNR are running means over the last steps, None between readings (reading costs time)."""

    step: int
    steps: int
    gaussians: int
    seconds: float
    loss: float | None = None
    psnr: float | None = None

    @property
    def seconds_left(self) -> float:
        return self.seconds / max(self.step, 1) * (self.steps - self.step)


@dataclass(frozen=True)
class Warned:
    """Something the user should know; one sentence."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The optimisation ended; `early` when it was stopped by the user, `limited` when its time limit allowed fewer steps than were planned."""

    step: int
    seconds: float
    early: bool
    limited: bool = False


Event = StageProgress | StepDone | Warned | Finished
