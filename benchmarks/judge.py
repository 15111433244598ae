"""Does the judge of `imgtf evaluate` see what it should? Real images made worse, and planted copies.

    python benchmarks/judge.py DATA [--size 32] [--features squeeze,classifier] [--images 1000]

Two random halves of the held-out images of DATA are compared, as they are and with one half blurred or with noise; then
copies of the reference, one image many times, and noise alone. Last, copies of training images are planted among
held-out ones: exact, mirrored, with noise, and shifted. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from imgtf.data.config import DataConfig
from imgtf.data.source import open_source
from imgtf.evaluation.cache import cache_folder
from imgtf.evaluation.classifier import ClassifierData
from imgtf.evaluation.distances import compare
from imgtf.evaluation.features import FeatureNetwork, FeatureRequest, load_features
from imgtf.evaluation.nearest import Queries, find_nearest, memorisation
from imgtf.evaluation.references import RealImages, add_batch
from imgtf.evaluation.statistics import Statistics, shuffle_keys
from imgtf.runtime.optional import import_with_torchvision

BATCH_SIZE = 64
PLANTED = 25
"""Copies of each kind."""
Change = Callable[[Tensor, torch.Generator], Tensor]


def blurred(sigma: float) -> Change:
    """Gaussian blur; sigma in pixels."""
    blur = import_with_torchvision("torchvision.transforms.functional").gaussian_blur
    return lambda images, random: blur(images, 2 * round(2 * sigma) + 3, sigma)


def noisy(sigma: float) -> Change:
    """Gaussian noise; sigma in the range of 0 to 255."""
    return lambda images, random: (
        images + sigma / 127.5 * torch.randn(images.shape, generator=random)
    ).clamp(-1, 1)


CHANGES: dict[str, Change] = {
    "the other half": lambda images, random: images,
    "blur, sigma 0.5 px": blurred(0.5),
    "blur, sigma 1 px": blurred(1),
    "blur, sigma 2 px": blurred(2),
    "noise, sigma 5": noisy(5),
    "noise, sigma 20": noisy(20),
    "noise, sigma 60": noisy(60),
    "ten images again and again": lambda images, random: images[torch.arange(len(images)) % 10],
    "noise alone": lambda images, random: torch.rand(images.shape, generator=random) * 2 - 1,
}


def statistics(network: FeatureNetwork, images: Tensor) -> Statistics:
    """The statistics of images (n, C, H, W)."""
    own = {network.name: Statistics()}
    for start in range(0, len(images), BATCH_SIZE):
        part = images[start : start + BATCH_SIZE]
        add_batch(own, [network], part, range(start, start + len(part)))
    return own[network.name]


def distances(networks: list[FeatureNetwork], reference: Tensor, others: Tensor) -> None:
    """Print a table of every change in each network."""
    for network in networks:
        print(
            f"\n{network.name} (weights {network.sha256[:12]}), {len(others)} against {len(reference)} images\n"
        )
        print("| images | Frechet distance | kernel distance | precision | recall |\n|---|---|---|---|---|")
        real = statistics(network, reference)
        sets = {name: change(others, torch.Generator().manual_seed(0)) for name, change in CHANGES.items()}
        for name, images in (sets | {"copies of the reference": reference}).items():
            found = compare(statistics(network, images), real, network.names)
            numbers = [
                found[key] for key in (network.names.frechet, network.names.kernel, "precision", "recall")
            ]
            print(f"| {name} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |", flush=True)


def planted(images: Tensor) -> dict[str, Tensor]:
    """Copies of training images, `PLANTED` of each kind."""
    random = torch.Generator().manual_seed(0)
    kinds: list[tuple[str, Change]] = [
        ("exact", lambda x, random: x),
        ("mirrored", lambda x, random: x.flip(-1)),
        ("noise, sigma 10", noisy(10)),
        ("shifted by one pixel", lambda x, random: x.roll(1, -1)),
    ]
    chosen = images[torch.randperm(len(images), generator=random)].split(PLANTED)
    return {name: change(part, random) for (name, change), part in zip(kinds, chosen, strict=False)}


def copies(network: FeatureNetwork, training: RealImages, held_out: RealImages, others: Tensor) -> None:
    """Print how many of the planted copies, and of other held-out images, are flagged."""
    some = torch.stack(
        [training.dataset[i]["image"] for i in range(0, len(training), max(1, len(training) // 400))]
    )
    sets = planted(some) | {"held-out images": others}
    samples, real = Queries(network), Queries(network)
    samples.add(torch.cat(list(sets.values())), range(sum(map(len, sets.values()))))
    for batch in held_out.batches():
        real.add(batch["image"], batch["index"].numpy())
    found = memorisation(samples, real, find_nearest([samples, real], training))
    near = set(found.near.tolist())
    print(f"\nCopies among samples; {len(training)} training images, features of {network.name}\n")
    print("| samples | flagged |\n|---|---|")
    start = 0
    for name, images in sets.items():
        flagged = len(near & set(range(start, start + len(images))))
        print(f"| {name} | {flagged} of {len(images)} |")
        start += len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--features", default="squeeze")
    parser.add_argument("--images", type=int, default=1000, help="in each half at most")
    parser.add_argument("--cache", type=Path, default=None)
    args = parser.parse_args()
    data = DataConfig(data=args.data)
    sources, size = open_source(data), (args.size, args.size)
    training, held_out = (RealImages(source, data, size, args.channels) for source in sources)
    request = FeatureRequest(
        torch.device("cpu"), args.cache or cache_folder(),
        ClassifierData(*sources, data, size, args.channels),
    )  # fmt: skip
    networks = load_features(args.features, request)
    images = torch.cat([batch["image"] for batch in held_out.batches()])
    order = torch.from_numpy(shuffle_keys(torch.arange(len(images)).numpy()).argsort())
    half = min(args.images, len(images) // 2)
    reference, others = images[order[:half]], images[order[half : 2 * half]]
    distances(networks, reference, others)
    copies(networks[0], training, held_out, others[:200])


if __name__ == "__main__":
    main()
