# fewstep with its page: docker build -t fewstep .   or   docker build --build-arg DEVICE=cuda -t fewstep .
# Not built here: no container engine was at hand. A test runs the commands in an empty environment.
ARG DEVICE=cpu

FROM python:3.12-slim AS cpu
ENV TORCH_INDEX=https://download.pytorch.org/whl/cpu

# torch's own packages hold CUDA; the host gives the driver (docker run --gpus all).
FROM python:3.12-slim AS cuda
ENV TORCH_INDEX=https://pypi.org/simple \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${DEVICE}
COPY . /src
RUN python -m pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" "torch>=2.4.1"
RUN python -m pip install --no-cache-dir "/src[ui,data]"
WORKDIR /here
EXPOSE 7860
ENTRYPOINT ["python", "-m", "fewstep"]
CMD ["doctor"]
