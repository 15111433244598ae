"""Are the sampled digits digits, and not copies? Run it after `imgtf tokenizer train` and `imgtf prior train`.

    python benchmarks/digits.py [MODEL_FOLDER]

A support-vector classifier that never saw our models reads 500 samples, brought down to the 8x8 pixels it was
trained on. It prints one JSON object.
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
TRAINED = 1500


def small(pictures: list[Image.Image]) -> np.ndarray:
    """Pictures to the classifier's scale: (n, 64) in [0, 16]."""
    rows = [np.asarray(p.resize((8, 8), Image.Resampling.BOX), dtype=np.float64) for p in pictures]
    return np.stack(rows).reshape(len(rows), -1) * 16 / 255


def nearest(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each row to the nearest of the others."""
    return np.sqrt(((rows[:, None] - others[None]) ** 2).sum(-1).min(1))


def pictures_of(source: ImageSource) -> list[Image.Image]:
    return [source.image(i) for i in range(len(source))]


def measure(folder: str) -> dict[str, Any]:
    digits = load_digits()
    classifier = SVC(C=10, gamma=0.001).fit(digits.data[:TRAINED], digits.target[:TRAINED])
    train, held_out = open_source(DataConfig())
    pipeline = Pipeline.from_pretrained(folder)
    made = list(pipeline.stream(SAMPLES, seed=0))
    samples = small([m.picture for m in made])
    labels = np.array([int(m.label or -1) for m in made])
    train_rows, held_out_rows = small(pictures_of(train)), small(pictures_of(held_out))
    return {
        "classifier_on_held_out_originals": classifier.score(digits.data[TRAINED:], digits.target[TRAINED:]),
        "classifier_on_held_out_enlarged": classifier.score(held_out_rows, digits.target[TRAINED:]),
        "agreement_with_label": float((classifier.predict(samples) == labels).mean()),
        "median_distance_of_samples": float(np.median(nearest(samples, train_rows))),
        "median_distance_of_held_out": float(np.median(nearest(held_out_rows, train_rows))),
        "tokenizer": evaluate_tokenizer(pipeline.tokenizer, held_out, DataConfig()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1] if len(sys.argv) > 1 else "model"), indent=2))
