"""For all tests: one thread (tiny models only wait for more), and nothing of the user's environment."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
