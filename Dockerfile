# docker build -t lrexp . && docker run --rm -v "$PWD/outputs:/runs/outputs" lrexp [overrides]
FROM python:3.11-slim
COPY pyproject.toml README.md LICENSE /src/
COPY lrexp /src/lrexp
COPY hydra_plugins /src/hydra_plugins
COPY conf /src/conf
RUN pip install --no-cache-dir /src && rm -rf /src
WORKDIR /runs
ENTRYPOINT ["lrexp"]
