# syntax=docker/dockerfile:1
# docs/container.md says how it is built and run; `python scripts/container/rehearse.py` tries these
# steps where there is no container engine (for which RUN names no absolute path).
FROM python:3.11-slim
LABEL org.opencontainers.image.title="lrexp" \
      org.opencontainers.image.description="Which learning-rate policy, by how much better, does it overfit?" \
      org.opencontainers.image.licenses="MIT"

# cuda: PyPI's torch. cpu: the one of pytorch.org without CUDA, 5 GB smaller.
ARG TORCH=cuda
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY scripts/container/locked.txt /src/locked.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    case "$TORCH" in \
    cuda) skip='dev' ;; \
    cpu) skip='dev|cuda'; grep -E '^torch(vision)?==' locked.txt > torch.txt; \
         pip install --root-user-action ignore --no-deps --index-url "$CPU_INDEX" -r torch.txt || exit ;; \
    *) echo "TORCH=$TORCH: cuda or cpu"; exit 1 ;; \
    esac; \
    grep -vE "# ($skip)$" locked.txt > needed.txt && \
    pip install --root-user-action ignore -c locked.txt -r needed.txt

COPY pyproject.toml README.md LICENSE /src/
COPY lrexp /src/lrexp
COPY hydra_plugins /src/hydra_plugins
COPY conf /src/conf
RUN pip install --root-user-action ignore --no-cache-dir --no-deps . && pip check && rm -r ./*

# Any user may be chosen (--user): the home is everybody's, and a name is there for who has none.
ENV HOME=/home/lrexp USER=lrexp PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /runs
RUN mkdir -p -m 1777 outputs "$HOME"
VOLUME /runs/outputs
USER 1000:1000
ENTRYPOINT ["python", "-m", "lrexp"]
