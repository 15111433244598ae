"""Do sampled digits look like their labels, and are they more than copies of training images?

    python benchmarks/digits.py [MODEL]

MODEL is the folder of `imgtf tokenizer train` and `imgtf prior train` on the built-in digits ("model" by default). A
support-vector classifier, trained on the original 8x8 digits, classifies 500 samples reduced to that size. The distance
of samples to their nearest training image is compared with that of held-out images. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from imgtf.data.config import DataConfig
from imgtf.data.source import ImageSource, open_source
from imgtf.pipelines.evaluate import evaluate_tokenizer
from imgtf.pipelines.pipeline import Pipeline

SAMPLES = 500
TRAINING_DIGITS = 1500


def classifier_inputs(images: list[Image.Image]) -> np.ndarray:
    """Return images as the classifier reads them: (n, 64) in [0, 16]."""
    rows = [np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float64) for image in images]
    return np.stack(rows).reshape(len(rows), -1) * 16 / 255


def nearest_distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance of each row to the nearest of the others."""
    return np.sqrt(((rows[:, None] - others[None]) ** 2).sum(-1).min(1))


def images_of(source: ImageSource) -> list[Image.Image]:
    return [source.image(i) for i in range(len(source))]


def measure(folder: str) -> dict[str, Any]:
    digits, n = load_digits(), TRAINING_DIGITS
    classifier = SVC(C=10, gamma=0.001).fit(digits.data[:n], digits.target[:n])
    train, held_out = open_source(DataConfig())
    pipeline = Pipeline.from_pretrained(folder)
    sampled = list(pipeline.stream(SAMPLES, seed=0))
    samples = classifier_inputs([sample.image for sample in sampled])
    labels = np.array([int(sample.label or -1) for sample in sampled])
    train_rows, held_out_rows = classifier_inputs(images_of(train)), classifier_inputs(images_of(held_out))
    return {
        "classifier_on_held_out_originals": classifier.score(digits.data[n:], digits.target[n:]),
        "classifier_on_held_out_images": classifier.score(held_out_rows, digits.target[n:]),
        "agreement_with_label": float((classifier.predict(samples) == labels).mean()),
        "median_distance_of_samples": float(np.median(nearest_distances(samples, train_rows))),
        "median_distance_of_held_out": float(np.median(nearest_distances(held_out_rows, train_rows))),
        "tokenizer": evaluate_tokenizer(pipeline.tokenizer, held_out, DataConfig()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] if len(sys.argv) > 1 else "model"), indent=2))
