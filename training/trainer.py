"""Many small runs side by side on one device, in pieces that can be resumed.

On a GPU the whole step (batch, augmentation, forward, backward, clipping, AdamW, averaging) is one CUDA graph. Each run warms
up, captures and replays on ONE stream of its own: cuBLAS workspaces belong to a stream, so graphs that share one must not run
side by side.
"""

import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from data import Images, augmented, epoch_order, frame
from model import EXACT, FAMILIES, Shape
from ranges import RangeLoss

UNFINISHED = 3  # exit status of a command that stopped at its time limit with a checkpoint


@dataclass
class RunConfig:
    """One training run."""

    family: str
    seed: int
    rate: float
    shift: int
    epochs: int = 90
    batch: int = 512
    weight_decay: float = 0.05
    smoothing: float = 0.05
    warm_up: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    range_weight: float = 0.1
    hole: int = 0
    half: bool = False  # bfloat16 where autocast finds it safe

    @property
    def name(self) -> str:
        return f"{self.family} lr {self.rate:g} shift {self.shift} seed {self.seed}"

    def as_dict(self) -> dict:
        return asdict(self)


class Stepper:
    """A model, its running average, its optimiser, and the step that moves them. `config` has rate, weight_decay, warm_up, clip
    and average; `losses` is the subclass's: it takes its own batch, without a word from the host."""

    def __init__(self, config, model: torch.nn.Module, average: torch.nn.Module, total: int, device):
        self.config, self.total, self.device = config, total, torch.device(device)
        self.model, self.average = model.to(device), average.to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.step_number = torch.zeros(1, dtype=torch.long, device=device)
        self.loss_sum = torch.zeros((), device=device)
        self.rate = torch.tensor(config.rate, device=device)
        decays = lambda name: name.endswith("weight") and "norm" not in name
        named = list(self.model.named_parameters())
        groups = [
            {"params": [p for n, p in named if decays(n)], "weight_decay": config.weight_decay},
            {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
        ]
        graph = {"fused": True, "capturable": True} if self.device.type == "cuda" else {}
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98), **graph)
        self.graph, self.stream = None, None

    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss that is shown, and the one that is minimised."""
        raise NotImplementedError

    def step(self) -> None:
        """One optimisation step, with no word from the host: the position in the schedule is `step_number`."""
        c = self.config
        progress = (self.step_number[0] + 1) / self.total
        warm = (progress / c.warm_up).clamp(max=1.0)
        self.rate.copy_(c.rate * warm * 0.5 * (1 + torch.cos(math.pi * progress.clamp(max=1.0))))
        self.optimizer.zero_grad(set_to_none=True)
        loss, total = self.losses()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
        self.optimizer.step()
        with torch.no_grad():
            # Shorter memory at first, or the first steps' weights would stay in the average.
            share = (9 / (10 + self.step_number[0])).clamp(min=1 - c.average)
            moves = torch._foreach_sub(list(self.model.parameters()), list(self.average.parameters()))
            torch._foreach_mul_(moves, share)
            torch._foreach_add_(list(self.average.parameters()), moves)
            self.loss_sum += loss.detach()
            self.step_number += 1

    def tensors(self) -> list[torch.Tensor]:
        """Everything a step changes, the optimiser's state excepted."""
        return [*self.model.parameters(), *self.average.parameters(), self.step_number, self.loss_sum, self.rate]

    def optimizer_tensors(self) -> list[torch.Tensor]:
        return [v for state in self.optimizer.state.values() for v in state.values() if torch.is_tensor(v)]

    def prepare(self) -> None:
        """Captures the graph; the warm-up steps leave no trace."""
        if self.device.type != "cuda":
            return
        kept = [t.detach().clone() for t in self.tensors()]
        fresh = not self.optimizer.state
        kept_state = [t.clone() for t in self.optimizer_tensors()]
        self.stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step()
        torch.cuda.synchronize()
        with torch.no_grad():
            for tensor, value in zip(self.tensors(), kept):
                tensor.copy_(value)
            for i, tensor in enumerate(self.optimizer_tensors()):
                tensor.zero_() if fresh else tensor.copy_(kept_state[i])
        torch.cuda.synchronize()

    def advance(self) -> None:
        if self.graph is None:
            return self.step()
        with torch.cuda.stream(self.stream):
            self.graph.replay()


class Run(Stepper):
    """One training run on images; `framed` are the images in a black frame of at least `config.shift` pixels."""

    def __init__(self, config: RunConfig, shape: Shape, images: Images, framed: torch.Tensor):
        self.config, self.shape, self.images, self.framed = config, shape, images, framed
        self.steps_per_epoch = len(images) // config.batch
        torch.manual_seed(config.seed)
        super().__init__(config, self.build(), self.build(), config.epochs * self.steps_per_epoch, framed.device)
        self.order = torch.zeros(self.steps_per_epoch, config.batch, 6, dtype=torch.long, device=framed.device)

    def build(self) -> torch.nn.Module:
        return FAMILIES[self.config.family](self.shape)

    def losses(self) -> tuple[torch.Tensor, torch.Tensor]:
        order = self.order.index_select(0, self.step_number % self.steps_per_epoch)[0]
        images = augmented(self.framed, order, self.images.spec, self.config.hole)
        with torch.autocast(self.framed.device.type, torch.bfloat16, enabled=self.config.half, cache_enabled=False):
            return self.objective(images, self.images.labels[order[:, 0]])

    def objective(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss that is shown, and the one that is minimised."""
        c = self.config
        functions = RangeLoss(self.shape) if c.family == "power" else EXACT
        loss = F.cross_entropy(self.model(images, functions), labels, label_smoothing=c.smoothing)
        return loss, loss + c.range_weight * functions.penalty if c.family == "power" else loss

    def load_epoch(self, epoch: int) -> None:
        c = self.config
        self.order.copy_(epoch_order(c.seed, epoch, len(self.images), c.batch, c.shift, self.images.spec.side))
        self.loss_sum.zero_()

    def state(self) -> dict:
        return {
            "config": self.config.as_dict(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_number.item(),
        }

    def restore(self, state: dict) -> None:
        if state["config"] != self.config.as_dict():
            raise SystemExit(f"the checkpoint was made by other settings ({state['config']}): use another --work folder")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate  # loading replaced the tensor that `step` writes
        self.step_number.fill_(state["step"])


def save(path: Path, runs: list[Run], epoch: int, seconds: float) -> None:
    """Whole or not at all: a killed command leaves the previous checkpoint."""
    part = path.with_suffix(".part")
    on_gpu = runs[0].framed.is_cuda
    hardware = torch.cuda.get_device_name() if on_gpu else f"CPU, {platform.machine()}"
    torch.save({"epoch": epoch, "seconds": seconds, "hardware": hardware, "torch": str(torch.__version__),
                "runs": [run.state() for run in runs]}, part)
    part.replace(path)


def build_runs(configs: list[RunConfig], shape: Shape, images: Images, device) -> list[Run]:
    images = images.to(device)
    framed = frame(images.pixels, max(config.shift for config in configs))
    return [Run(config, shape, images, framed) for config in configs]


def train(runs: list[Run], work: Path, minutes: float, resume: bool) -> bool:
    """Trains all runs, of equal epochs and steps, up to `minutes`; true when they are finished. The checkpoint is
    WORK/checkpoint.pt."""
    checkpoint = work / "checkpoint.pt"
    started = time.monotonic()
    on_gpu, epochs, epoch, before = runs[0].framed.is_cuda, runs[0].config.epochs, 0, 0.0
    if resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=runs[0].framed.device, weights_only=True)
        if len(saved["runs"]) != len(runs):
            raise SystemExit("the checkpoint holds another set of runs: use another --work folder")
        epoch, before = saved["epoch"], saved["seconds"]
        for run, state in zip(runs, saved["runs"]):
            run.restore(state)
        print(f"resuming after epoch {epoch} of {epochs}", flush=True)
    if epoch >= epochs:
        return True
    for run in runs:
        run.load_epoch(epoch)
        run.prepare()
    print(f"{len(runs)} runs of {runs[0].total} steps x {runs[0].config.batch}, ready after "
          f"{time.monotonic() - started:.0f} s", flush=True)
    first, clock = epoch, time.monotonic()
    saved_at = clock
    while epoch < epochs:
        for run in runs:
            run.load_epoch(epoch)
        if on_gpu:
            torch.cuda.synchronize()  # the new order was written on another stream than the graphs'
        for _ in range(runs[0].steps_per_epoch):
            for run in runs:
                run.advance()
        if on_gpu:
            torch.cuda.synchronize()
        epoch += 1
        now = time.monotonic()
        each = (now - clock) / (epoch - first)
        losses = " ".join(f"{run.loss_sum.item() / run.steps_per_epoch:.3f}" for run in runs)
        print(f"epoch {epoch}/{epochs}  {each:.1f} s an epoch  ETA {each * (epochs - epoch):.0f} s  loss {losses}", flush=True)
        out_of_time = now - started + 1.5 * each > 60 * minutes
        if epoch == epochs or out_of_time or now - saved_at > 60:
            save(checkpoint, runs, epoch, before + now - clock)
            saved_at = now
        if out_of_time and epoch < epochs:
            print(f"time limit reached; the same command with --resume continues after epoch {epoch}", flush=True)
            return False
    return True
