"""Updates that would spoil the weights are skipped: loss or gradients are not finite, or gradients are far too large.

Nothing here waits for a GPU. Whether an update is skipped is a number on the device, `found_inf` of the fused AdamW,
which then leaves weights, moments and its step count as they are. Only `streak` and `take_skipped`, called at log lines
and before a state is saved, read numbers back. With a number of 0 every result is bit for bit that of a plain update.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

STREAK = 10
"""Updates in a row without finite numbers after which the loop goes back to the last good state."""
NORMS = 100
"""Updates whose median gradient norm is the usual one."""
FEWEST_NORMS = 20
"""Updates before a norm can be a spike."""


class UpdateGuard:
    """Judges every update. All processes judge alike.

    - fault: loss or gradients are not finite. fp16's scaled gradients may overflow; that is a skipped update, but no
      fault: the scaler then lowers its scale.
    - spike: a gradient norm is above `factor` times the median of the last ones, spikes included, so that a new level
      of the norm is no spike for long.
    """

    def __init__(self, accelerator: Accelerator, factor: float) -> None:
        """`factor`: see spike; 0 for no limit."""
        self.accelerator, self.factor = accelerator, factor
        self._zero = torch.zeros((), device=accelerator.device)
        self._norms: list[Tensor] = []
        """(NORMS,) of each network, NaN where there is none yet."""
        self._streak = self._skipped = self._bad_loss = self._unwanted = self.skip = self._zero
        self._kept: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def begin(self, modules: Iterable[nn.Module]) -> None:
        """Start an update: keep the buffers of the modules, which forward passes change (codebooks, running means)."""
        buffers = [buffer for module in modules for buffer in module.buffers()]
        self._kept = [(buffer, buffer.clone()) for buffer in buffers]
        self._bad_loss = self._unwanted = self.skip = self._zero

    @torch.no_grad()
    def note(self, loss: Tensor) -> None:
        """Look at the loss of a micro-batch."""
        self._bad_loss = torch.maximum(self._bad_loss, (~torch.isfinite(loss)).float())

    @torch.no_grad()
    def judge(self, norms: Sequence[Tensor], step: int, *, scaled: bool) -> Tensor:
        """Return 1 where the update must be skipped, else 0, as a float () on the device.

        Args:
            norms: gradient norm () of each network, the same in all processes.
            scaled: whether fp16's scaler was at work.
        """
        bad_norm = (~torch.isfinite(torch.stack(list(norms)))).any().float()
        fault = self._bad_loss if scaled else torch.maximum(self._bad_loss, bad_norm)
        if self.accelerator.num_processes > 1:  # the loss is that of this process
            fault = (self.accelerator.reduce(fault, "sum") > 0).float()
        spike = self._spike(norms, step) if self.factor else self._zero
        self._unwanted = torch.maximum(fault, spike)
        self._skipped = self._skipped + self._unwanted
        self.skip = torch.maximum(self._unwanted, bad_norm)
        self._streak = torch.where(fault > 0, self._streak + 1, torch.where(self.skip > 0, self._streak, 0.0))
        return self.skip

    @torch.no_grad()
    def end(self) -> None:
        """Finish an update: put the buffers back where it was a fault or a spike."""
        for buffer, kept in self._kept:
            buffer.copy_(torch.where(self._unwanted > 0, kept, buffer))
        self._kept = []

    def streak(self) -> int:
        """Return the number of faults in a row up to now."""
        return int(self._streak)

    def take_skipped(self) -> int:
        """Return the number of faults and spikes since the last call."""
        skipped, self._skipped = int(self._skipped), self._zero
        return skipped

    def tensors(self) -> dict[str, Tensor]:
        """Return what later judgements depend on, for the training state."""
        norms = {f"norms/{i}": norms for i, norms in enumerate(self._norms)}
        return {"streak": self._streak.clone(), "skipped": self._skipped.clone()} | norms

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `tensors`; {} starts anew."""
        moved = {name: tensor.to(self._zero.device) for name, tensor in tensors.items()}
        self._streak, self._skipped = (moved.get(name, self._zero) for name in ("streak", "skipped"))
        self._norms = [moved[name] for name in sorted(moved) if name.startswith("norms/")]

    def _spike(self, norms: Sequence[Tensor], step: int) -> Tensor:
        """Compare the norms with those before, and keep them."""
        found = self._zero
        for i, norm in enumerate(norms):
            if i == len(self._norms):
                self._norms.append(torch.full((NORMS,), torch.nan, device=self._zero.device))
            before = self._norms[i]
            high = torch.isfinite(norm) & (norm > self.factor * before.nanmedian())  # False without any norm
            enough = torch.isfinite(before).sum() >= FEWEST_NORMS
            found = torch.maximum(found, (high & enough).float())
            slot = step % NORMS
            before[slot] = torch.where(torch.isfinite(norm), norm.float(), before[slot])
        return found
