# Hotplate as an image: `docker build -t hotplate .`, and with `--build-arg VARIANT=gpu` for NVIDIA GPUs.
#
# BASE_IMAGE is any image with Python 3.11 and its venv module. Pin it where builds must be repeatable, with the digest
# that `docker buildx imagetools inspect python:3.11-slim-bookworm` tells:
#   --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:...
# VERSION and REVISION are labels alone; `make image` fills them in.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG VARIANT=cpu

# --- what the service needs, exactly as locked ---
# gpu: CUDA 13 and cuDNN 9 come as wheels with onnxruntime-gpu, so there is no toolkit; the driver is the host's.
FROM ${BASE_IMAGE} AS dependencies
ARG VARIANT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The service's own environment has no pip: that of another environment fills it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/hotplate
COPY service/requirements.${VARIANT}.lock /opt/requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip --python /opt/hotplate/bin/python install --require-hashes --only-binary :all: --no-compile \
        --requirement /opt/requirements.lock
# Bytecode is written here, for at run time the file system is read-only. What goes: tests, types, headers, and every
# script but the service's own.
RUN find /opt/hotplate/lib -depth \
        \( -type d \( -name tests -o -name include -o -path '*/onnxruntime/transformers' \
        -o -path '*/onnx/backend' -o -path '*/onnx/reference' -o -path '*/onnx/defs/training' \) -o -type f \( -name '*.pyi' \
        -o -name '*.a' -o -name '*.[ch]' -o -name '*.cpp' -o -name '*.pyx' -o -name '*.pxd' \) \) -exec rm -rf {} + \
    && find /opt/hotplate/bin -type f -delete \
    && printf '#!/opt/hotplate/bin/python\nfrom service.cli.main import main\n\nmain()\n' > /opt/hotplate/bin/hotplate \
    && chmod 755 /opt/hotplate/bin/hotplate \
    && echo /app > "$(/opt/hotplate/bin/python -c 'import site; print(site.getsitepackages()[0])')/hotplate.pth" \
    && /opt/hotplate/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/hotplate/lib

# --- the service itself ---
FROM dependencies AS application
WORKDIR /app
COPY models/repository /repository
COPY models/*.py models/py.typed models/
COPY models/importing models/importing
COPY service service
RUN chmod -R a+rX,go-w /app /repository \
    && /opt/hotplate/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

# --- what runs ---
FROM ${BASE_IMAGE} AS runtime
# No installer and no setuid program stays behind; the standard library gets the bytecode that slim images leave out.
RUN find / -xdev -depth -path '*/python*' \
        \( -name pip -o -name 'pip-*' -o -name ensurepip -o -name setuptools -o -name 'setuptools-*' -o -name wheel \
        -o -name 'wheel-*' -o -name python-wheels \) -exec rm -rf {} + \
    && rm -f /usr/local/bin/pip* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && python3 -m compileall -q -x '/(test|tests|idlelib|lib2to3|site-packages|dist-packages)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && echo 'hotplate:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'hotplate:x:10001:' >> /etc/group
COPY --from=dependencies /opt/hotplate /opt/hotplate
COPY --from=application /repository /app/models/repository
COPY --from=application /app /app
# HOME: what a library wants to keep goes where a container may write.
ENV PATH=/opt/hotplate/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOTPLATE_HOST=0.0.0.0
ARG BASE_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hotplate" \
      org.opencontainers.image.description="Serves small neural networks: batched, verified at load, observable." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
WORKDIR /app
USER 10001:10001
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/hotplate/bin/python", "-m", "service.processes.probe"]
ENTRYPOINT ["hotplate"]
CMD ["serve"]
