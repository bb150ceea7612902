# gmmpipe on CPUs, as a user without rights:
#
#     docker build --tag gmmpipe .
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" gmmpipe \
#         featurize --data_dir audio --output_dir store
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY gmmpipe gmmpipe
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG EXTRAS=av,dask,hub,kaldi,parquet
# torch without CUDA is a tenth as large; torchaudio has to come from the same index.
RUN pip install --no-cache-dir torch==2.11.0 torchaudio==2.11.0 \
        --index-url https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/gmmpipe-*.whl)[$EXTRAS]"
RUN useradd --create-home gmmpipe
USER gmmpipe
WORKDIR /data
ENTRYPOINT ["gmmpipe"]
CMD ["--help"]
