"""The small images and the model of the tests of pipelines/."""

from ..pipelines.conftest import images, model, run

__all__ = ["images", "model", "run"]
