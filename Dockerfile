# syntax=docker/dockerfile:1
# imgtf with its dependencies in the versions of constraints.txt.
#
#   docker build -t imgtf .                                     CPU
#   docker build -t imgtf:cuda --build-arg VARIANT=cuda .       NVIDIA GPUs; run with --gpus all
#   docker run --rm -v "$PWD:/work" imgtf tokenizer train --data my-images
#   docker run --rm -v "$PWD:/work" -p 127.0.0.1:8000:8000 imgtf serve model --host 0.0.0.0
#
# Unverified: checked with hadolint only, never built, because no Docker engine ran where it was written.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
RUN pip install --no-cache-dir build==1.6.1
COPY . .
RUN python -m build --wheel --outdir /dist

FROM python:${PYTHON}-slim
# cpu: the builds of PyTorch without CUDA; cuda: those of the package index, which bring the CUDA libraries with them.
ARG VARIANT=cpu
ARG EXTRAS=compress,demo,formats,plot,serve,text,web
COPY --from=build /dist /dist
COPY constraints.txt /dist/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN case "$VARIANT" in \
      cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
      cuda) ;; \
      *) echo "VARIANT is cpu or cuda, not $VARIANT" >&2; exit 1 ;; \
    esac \
    && wheel=$(echo /dist/imgtf-*.whl) \
    && pip install --no-cache-dir --constraint /dist/constraints.txt "imgtf[$EXTRAS] @ file://$wheel" \
    && rm -r /dist \
    && useradd --create-home --uid 1000 imgtf \
    && install --directory --owner 1000 /work
USER 1000
WORKDIR /work
ENTRYPOINT ["imgtf"]
CMD ["--help"]
