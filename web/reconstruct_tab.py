"""The tab that shows an image next to its reconstruction."""

from __future__ import annotations

import math

import gradio as gr
import torch
from PIL import Image

from ..data.image import to_pil
from ..tokenizer.metrics import psnr
from .drawing import Drawing
from .output import Events, buttons, connect, output_area
from .results import Command, Result, record
from .sample_tab import upload
from .site import Site
from .uploads import at_model_size, read_upload
from .worker import Job, Worker

INPUT_FILE = "input.png"
STRONGER = 4
"""Factor of the difference that is shown."""


def reconstructed(site: Site, worker: Worker, image: Image.Image) -> Events:
    """Yield the image at the model's size, its reconstruction, and their difference. Raises DataError."""
    results: list[Result] = []

    def work(job: Job[Drawing]) -> None:
        results.append(_reconstruct(site, image))

    yield from worker.run(work)
    yield from results


@torch.no_grad()
def _reconstruct(site: Site, image: Image.Image) -> Result:
    assert site.tokenizer is not None
    tokenizer, config = site.tokenizer, site.tokenizer.config
    pixels = at_model_size(image, config).pixels[None].to(tokenizer.device)  # (1, C, H, W)
    codes = tokenizer.encode(pixels)  # (1, h, w)
    decoded = tokenizer.decode(codes)
    decibels = float(psnr(pixels, decoded))
    difference = ((pixels - decoded.clamp(-1, 1)).abs() * STRONGER).clamp(0, 2) - 1
    shown = [to_pil(own[0], config.bit_depth) for own in (pixels, decoded, difference)]
    images = dict(zip(("original.png", "reconstruction.png", "difference.png"), shown, strict=True))
    captions = [
        f"original, {shown[0].width}x{shown[0].height} px",
        f"reconstruction, {decibels:.2f} dB PSNR",
        f"difference, {STRONGER} times",
    ]
    options = {"model": site.name, "precision": "fp32", "out": "reconstructed"}
    command = Command(("tokenizer", "reconstruct"), options, (INPUT_FILE,))
    described = record(site, psnr=decibels, command=command.line(), codes=codes[0].tolist())
    size = codes.numel() * math.log2(config.codebook_size) / 8
    note = f"{decibels:.2f} dB PSNR from {codes.numel():,} codes, {size:,.0f} bytes. Click an image to download it."
    return Result("reconstruction", images, captions, command, described, {INPUT_FILE: image}, note)


def build(site: Site, worker: Worker) -> None:
    """Draw the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            image = upload("Image; cropped in the centre to the model's shape", height=320)
            start, stop = buttons("Reconstruct")
        with gr.Column(scale=3, min_width=360):
            output = output_area("The image at the model's size, its reconstruction, and the difference.", 3)

    def work(payload: object) -> Events:
        return reconstructed(site, worker, read_upload(payload))

    connect(start, stop, [image], output, work, "reconstruct")
