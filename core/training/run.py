"""The verb `train`: the phases of a plan, one after another, in a run folder that always resumes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from mutoscope.core.dataset import Dataset
from mutoscope.core.denoiser import FrameDenoiser, TokenDenoiser
from mutoscope.core.errors import InputError, Interrupted, WorkError
from mutoscope.core.model import Model, stages_of
from mutoscope.core.randomness import key
from mutoscope.core.storage.checkpoint import newest, prune, read_checkpoint, write_checkpoint
from mutoscope.core.storage.failpoints import reach
from mutoscope.core.storage.journal import Journal, finite
from mutoscope.core.training.distribution import Processes
from mutoscope.core.training.feed import BLOCK, Feed, Share
from mutoscope.core.training.memory import shape_of, told
from mutoscope.core.training.plan import Phase, Plan, Trained
from mutoscope.core.training.progress import Progress, Silence
from mutoscope.core.training.provenance import peak_memory
from mutoscope.core.training.signals import Stop, interruptible
from mutoscope.core.training.state import load_module, load_players, player_tensors
from mutoscope.core.training.turns import NotFinite, Turns
from mutoscope.core.training.views import Seen, seen_by
from mutoscope.core.values import Batch

ROLLBACKS = 10
"""Times that a phase may go back to a checkpoint because a step was not finite; then the run stops."""
CALIBRATION = 8
"""Blocks of training clips from which a learner measures what it needs before and after its phase."""


@dataclass
class Position:
    """How far a run is: phases done, steps in the current one, and what has been spent by phase."""

    phase: int = 0
    step: int = 0
    spent: dict[str, dict[str, float]] = field(default_factory=dict)


class Training:
    """One run of a plan in a folder.

    folder: receives `metrics.jsonl` and `checkpoints/`. store: where finished phases are kept by address, shared by
    runs; None keeps none. The same call on the same folder continues, or returns at once when the run is done.
    """

    def __init__(
        self,
        model: Trained,
        plan: Plan,
        folder: Path,
        processes: Processes | None = None,
        store: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.plan, self.folder, self.store = model, plan, folder, store
        self.processes = processes or Processes()
        self.progress: Progress = progress if progress is not None and self.processes.first else Silence()
        self.stages = dict(stages_of(model))
        self.checkpoints = folder / "checkpoints"
        self.position = Position()

    def run(self) -> Position:
        """Trains to the end of the plan. Raises Interrupted (after a checkpoint) when a signal asks for a stop."""
        self.model.to(self.processes.device)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        resumed = self._resume()
        with interruptible() as stop, Journal(self.folder / "metrics.jsonl", self._total()) as journal:
            for i in range(self.position.phase, len(self.plan.phases)):
                phase = self.plan.phases[i]
                self.position.phase = i
                if resumed is None and self._reuse(phase, journal):
                    continue
                with told(phase, partial(_described, phase), self.processes.device):
                    self._phase(phase, journal, stop, resumed)
                resumed = None
            if self.position.phase < len(self.plan.phases):
                self.position.phase, self.position.step = len(self.plan.phases), 0
                self._save(None, None)
            self.progress.end()
        self.model.eval()
        return self.position

    def _phase(self, phase: Phase, journal: Journal, stop: Stop, resumed: dict[str, Any] | None) -> None:
        model, descent = self.stages[phase.stage], phase.descent
        assert descent.steps is not None
        reach("phase.begin")
        phase.objective.to(self.processes.device)
        self.model.eval()
        for module in [model.part(phase.learn), *(model.conditioners if phase.learn == "denoiser" else [])]:
            _learn(module)
        _learn(phase.objective)
        if resumed is None:
            self._call(phase, "begin", model)
            self._lend_codes(phase, model)
            phase.objective.begin(model.part(phase.learn))
        else:
            phase.objective.load_state_dict(resumed["parts"]["objective"])
        phase.objective.restrict(model.part(phase.learn))
        learner: nn.Module = model.part(phase.learn)
        shared = [learner, *_trained(model.conditioners if phase.learn == "denoiser" else [])]
        self.processes.share(shared, descent.shard)
        turns = Turns(model, phase, self.processes)
        if resumed is not None:
            load_players(turns, resumed["parts"], resumed["state"])
        if descent.compile:
            learner.compile()
        share = Share(descent.batch, descent.accumulate, self.processes.rank, self.processes.count)
        if share.micro * share.accumulate * share.processes != descent.batch:
            raise InputError(
                field="training.batch",
                problem=f"must divide into {descent.accumulate} micro-batches on {self.processes.count} processes",
                got=descent.batch,
            )
        feed = Feed(
            self._data(phase), model, share, key(descent.seed, "data"), descent.steps,
            latents=phase.learn == "denoiser", cache=descent.cache, stop=stop,
        )  # fmt: skip
        self.progress.begin(phase.name, descent.steps, self.position.step)
        records = list(resumed["state"]["records"]) if resumed is not None else []
        self._rehearse(phase, turns, feed)
        rollbacks = 0
        while True:
            try:
                self._steps(phase, turns, feed, journal, stop, records)
                break
            except NotFinite as bad:
                rollbacks += 1
                if descent.on_nan != "rollback":
                    raise
                self._roll_back(phase, turns, bad, rollbacks)
        reach("phase.finish")
        if turns.average is not None:
            turns.average.install()
        self.processes.unite(shared)
        learner.eval()
        self._call(phase, "finish", model)
        for parameter in [*model.parameters(), *phase.objective.parameters()]:
            parameter.requires_grad_(False)
        if descent.compile:
            learner._compiled_call_impl = None
        self.position.phase, self.position.step = self.position.phase + 1, 0
        self._save(None, None)
        self._keep(phase, model, records)  # after the run's own checkpoint: what it made itself is not taken from there
        reach("phase.kept")

    def _steps(
        self, phase: Phase, turns: Turns, feed: Feed, journal: Journal, stop: Stop, records: list[dict[str, Any]]
    ) -> None:
        descent, steps = phase.descent, phase.descent.steps or 0
        spent = self.position.spent.setdefault(phase.name, {"seconds": 0.0, "samples": 0, "tokens": 0})
        started, before = time.monotonic(), spent["seconds"]
        for micros in feed.from_step(self.position.step):
            reach("step.begin")
            with told(phase, partial(_described, phase, self.position.step, micros[0][1]), self.processes.device):
                log = turns.step(self.position.step, micros)
            self.position.step += 1
            reach("step.end")
            spent["samples"] += descent.batch
            spent["tokens"] += self._tokens(phase, micros) if phase.learn == "denoiser" else 0
            spent["seconds"] = before + time.monotonic() - started
            done = self.position.step == steps
            if self.position.step % descent.log_every == 0 or self.position.step == 1 or done:
                record = self._record(phase, log, spent)
                records.append(record)
                if self.processes.first:
                    journal.append(record)
                loss = float(record.get("loss", record.get("learner.loss", 0.0)))
                self.progress.advance(self.position.step, {"loss": loss})
            else:
                self.progress.advance(self.position.step)
            asked = self.processes.any(stop()) if self._meets(stop) else False
            due = descent.checkpoint_every and self.position.step % descent.checkpoint_every == 0
            if (due and not done) or asked:
                self._save(turns, records)
            if asked:
                self._interrupted(phase)
        if self.position.step < steps:  # the feed has ended early: a stop was asked while data was waited for
            if self.position.step and not (self.checkpoints / f"step-{self._total():08d}").exists():
                self._save(turns, records)
            self._interrupted(phase)

    def _interrupted(self, phase: Phase) -> NoReturn:
        raise Interrupted(f"interrupted at step {self.position.step} of {phase.name}; the same command continues")

    def _rehearse(self, phase: Phase, turns: Turns, feed: Feed) -> None:
        """Where clips are of several sizes, tries the largest ones before the first step."""
        largest = feed.largest() if self.position.step < (phase.descent.steps or 0) else None
        if largest is not None:
            what = f"the largest clips do not fit, {shape_of(largest[0][1])} at a time, tried before the first step"
            with told(phase, lambda: what, self.processes.device):
                turns.rehearse(self.position.step, largest)

    def _roll_back(self, phase: Phase, turns: Turns, bad: NotFinite, times: int) -> None:
        """Back to the phase's last checkpoint, and on from the step after the bad one."""
        found = newest(self.checkpoints, report=self.progress.note)
        parts, state = read_checkpoint(found) if found is not None else ({}, {})
        if state.get("phase") != self.position.phase or not state.get("step"):
            raise WorkError(f"{bad}; the phase has no checkpoint yet to roll back to: lower checkpoint_every") from bad
        if times > ROLLBACKS:
            raise WorkError(f"{bad}; rolled back {ROLLBACKS} times before, so the run stops") from bad
        load_module(self.model, parts["model"], found)
        load_module(phase.objective, parts["objective"], found)
        load_players(turns, parts, state)
        for player in turns.players.values():
            player.optimizer.zero_grad(set_to_none=True)  # what was not finite would stay in the sums
        self.progress.note(f"{bad}; back to step {state['step']}, and on from step {self.position.step + 1}")
        self.position.step += 1

    def _meets(self, stop: Stop) -> bool:
        """Whether processes vote on a stop now: always alone, every tenth step together, since a vote is a message."""
        return stop.asked if self.processes.count == 1 else self.position.step % 10 == 0

    def _record(self, phase: Phase, log: Mapping[str, Tensor | float], spent: Mapping[str, float]) -> dict[str, Any]:
        values = {name: finite(float(value)) for name, value in log.items()}
        return {
            "phase": phase.name,
            "step": self.position.step,
            "global_step": self._total(),
            **values,
            "samples": int(spent["samples"]),
            "tokens": int(spent["tokens"]),
            "seconds": round(spent["seconds"], 3),
            "peak_memory": peak_memory(self.processes.device),
        }

    # Checkpoints

    def _total(self) -> int:
        """Steps over all phases so far."""
        return sum(p.descent.steps or 0 for p in self.plan.phases[: self.position.phase]) + self.position.step

    def _save(self, turns: Turns | None, records: list[dict[str, Any]] | None) -> None:
        """A checkpoint of everything that the rest of the run depends on. turns: None between phases."""
        parts: dict[str, dict[str, Tensor]] = {"model": self.processes.whole(self.model.state_dict())}
        state: dict[str, Any] = {
            "phase": self.position.phase,
            "step": self.position.step,
            "spent": self.position.spent,
            "records": records or [],
            "done": self.position.phase == len(self.plan.phases),
        }
        keep = self.plan.phases[min(self.position.phase, len(self.plan.phases) - 1)].descent.keep
        if turns is not None:
            parts["objective"] = self.processes.whole(turns.objective.state_dict())
            tensors, state["players"] = player_tensors(turns, self.processes)
            parts |= tensors
        if self.processes.first:
            write_checkpoint(self.checkpoints, self._total(), parts, state, notes={"seed": self.plan.seed})
            prune(self.checkpoints, keep=keep)
        self.processes.wait()

    def _resume(self) -> dict[str, Any] | None:
        """Loads the newest verified checkpoint into the model; what a phase in progress needs of it, else None."""
        found = newest(self.checkpoints, report=self.progress.note)
        if found is None:
            return None
        parts, state = read_checkpoint(found)
        if "model" not in parts or not {"phase", "step", "spent", "records"} <= set(state):
            raise InputError(f"{found}: is no checkpoint of a training run")
        load_module(self.model, parts["model"], found)
        self.position = Position(state["phase"], state["step"], state["spent"])
        return {"parts": parts, "state": state, "path": found} if state["step"] else None

    # Finished phases, kept by address

    def _reuse(self, phase: Phase, journal: Journal) -> bool:
        """Takes a phase's result from the store, if it is there."""
        if self.store is None or not phase.address:
            return False
        found = newest(self.store / phase.address, report=self.progress.note)
        if found is None:
            return False
        parts, state = read_checkpoint(found)
        model = self.stages[phase.stage]
        for address, tensors in parts.items():
            load_module(_member(model, address), tensors, found)
        self.position.spent[phase.name] = {**state["spent"], "reused": 1}
        for record in state["records"]:
            if self.processes.first:
                journal.append({**record, "reused": True})
        self.progress.note(
            f"{phase.name}: done before with the same recipe, data and code; taken from {phase.address[:8]}"
        )
        self.position.phase, self.position.step = self.position.phase + 1, 0
        self._save(None, None)
        return True

    def _keep(self, phase: Phase, model: Model, records: list[dict[str, Any]]) -> None:
        if self.store is None or not phase.address:
            return
        members = [phase.learn]
        if phase.learn == "denoiser":
            members += [f"conditioner.{i}" for i in range(len(model.conditioners))] + ["objective"]
        parts = {address: self.processes.whole(_member(model, address).state_dict()) for address in members}
        if self.processes.first:
            state = {"records": records, "spent": self.position.spent[phase.name]}
            filled = {address: tensors for address, tensors in parts.items() if tensors}
            write_checkpoint(
                self.store / phase.address, phase.descent.steps or 0, filled, state, notes={"phase": phase.name}
            )

    # What learners are given

    def _call(self, phase: Phase, hook: str, model: Model) -> None:
        """Calls a learner's `begin` or `finish` with a few training batches, where it has one."""
        learner = model.part(phase.learn)
        if hasattr(learner, hook) and not (hook == "begin" and isinstance(learner, FrameDenoiser)):  # begins clips
            getattr(learner, hook)(self._calibration(phase))

    def _lend_codes(self, phase: Phase, model: Model) -> None:
        """Shows a token denoiser the codebook whose ids it will see, where there is one of vectors."""
        if phase.learn == "denoiser" and isinstance(model.denoiser, TokenDenoiser):
            codes = model.autoencoder.codes()
            if codes is not None:
                model.denoiser.adopt(codes)

    def _data(self, phase: Phase) -> Dataset | Seen:
        """The data as the phase's stage sees it."""
        return seen_by(self.plan.dataset, phase.stage, list(self.stages), self.plan.views)

    def _calibration(self, phase: Phase) -> Iterable[Batch]:
        data = self._data(phase)
        length = data.length("train")
        for i in range(CALIBRATION):
            numbers = range(i * BLOCK, min((i + 1) * BLOCK, length))
            if len(numbers):
                yield data.batch("train", list(numbers)).to(self.processes.device)

    def _tokens(self, phase: Phase, micros: list[tuple[range, Batch]]) -> int:
        """Tokens of the clips of a step; where sizes mix, other processes' clips are taken to be like this one's."""
        model = self.stages[phase.stage]
        if model.clip.mixed:
            latents = [batch.latents for _, batch in micros if batch.latents is not None]
            grids = [grid for each in latents for grid in each.grids()]
            return self.processes.count * sum(model.patchifier.token_grid(grid).cells for grid in grids)
        latent = model.autoencoder.latent_grid(model.clip.frames, model.clip.size)
        return phase.descent.batch * model.patchifier.token_grid(latent).cells


def train(
    model: Trained,
    plan: Plan,
    folder: Path,
    processes: Processes | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> Position:
    """Trains a model by a plan in a folder: see `Training`."""
    return Training(model, plan, folder, processes, store, progress).run()


def _described(phase: Phase, step: int | None = None, batch: Batch | None = None) -> str:
    """What was being done, for whoever runs out of memory."""
    if step is None or batch is None:
        return f"{phase.descent.batch} clips a step in {phase.descent.accumulate} micro-batches"
    return f"step {step} with {shape_of(batch)} at a time"


def _learn(module: nn.Module) -> None:
    """Lets a module learn, except what a recipe or a part has marked as frozen."""
    module.train().requires_grad_(True)
    for member in module.modules():
        if getattr(member, "frozen", False):
            member.eval().requires_grad_(False)


def _trained(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [m for m in modules if any(p.requires_grad for p in m.parameters())]


def _member(model: Model, address: str) -> nn.Module:
    return model.get_submodule(address)
