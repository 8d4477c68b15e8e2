# Locust with the scenarios of this project, for compose.yaml. Built from the project's folder:
#   docker build -f loadtests/compose/locust.Dockerfile -t hotplate-locust .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/locust
COPY loadtests/requirements.lock /opt/requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip --python /opt/locust/bin/python install --require-hashes --only-binary :all: \
        --requirement /opt/requirements.lock

FROM dependencies AS scenarios
COPY models /app/models
COPY loadtests /app/loadtests
RUN chmod -R a+rX,go-w /app

FROM ${BASE_IMAGE} AS runtime
RUN echo 'locust:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'locust:x:10001:' >> /etc/group
COPY --from=dependencies /opt/locust /opt/locust
COPY --from=scenarios /app /app
ENV PATH=/opt/locust/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp MPLCONFIGDIR=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
EXPOSE 8089
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/', timeout=4)"]
ENTRYPOINT ["locust", "--locustfile", "loadtests/locustfile.py"]
