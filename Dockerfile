# The target side on NVIDIA's image of the full TensorRT: engines are built and run on the GPUs of the host.
#
#   docker build -t parnet-deploy .
#   docker run --rm --gpus all parnet-deploy doctor
#   docker run --rm --gpus all -v "$PWD:/data" -w /data parnet-deploy build bundle -o plan --backend tensorrt
#
# TensorRT 10.13 or later is needed (25.08 or later of this image).
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:25.09-py3
FROM ${TENSORRT_IMAGE}

ENV PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

# pycuda is compiled. It looks for the toolkit in this file only, and links to the driver's stub.
RUN printf '%s\n' \
        "CUDA_ROOT = '/usr/local/cuda'" \
        "CUDADRV_LIB_DIR = ['/usr/local/cuda/lib64/stubs']" \
        "CUDA_ENABLE_CURAND = False" > "$HOME/.aksetup-defaults.py" \
    && pip install 'pycuda>=2025.1'

WORKDIR /opt/parnet-deploy
COPY pyproject.toml README.md LICENSE ./
COPY parnet_deploy parnet_deploy
RUN pip install '.[onnxruntime,bench,cuda]'

ENTRYPOINT ["parnet-deploy"]
CMD ["doctor"]
