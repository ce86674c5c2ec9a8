# The whole platform in one image: `argus up`, or with `api` or `reconciler` as the command one of its processes alone.
#
#   docker build --build-arg EXTRA=cpu -t argus .
#   docker run --stop-timeout 60 --shm-size 1g -v argus:/var/lib/argus \
#       -p 127.0.0.1:8080:8080 -p 127.0.0.1:8000:8000 argus
#
#   BASE    Debian or a descendant of it, with Python 3.11 to 3.13 as python3
#   EXTRA   gpu (the default) or cpu: which of the engine's two builds
#   --build-context wheels=FOLDER    wheels to take before those of an index, such as the CPU build of torch
#
# buildah and podman need --format docker to keep the health check. A container of the reconciler alone has no API to
# ask: start it with --no-healthcheck.
ARG BASE=python:3.11-slim-bookworm
ARG EXTRA=gpu

# Nothing, unless the build names a folder (see above).
FROM scratch AS wheels

FROM ${BASE} AS system
ARG EXTRA
# libnuma1 is what the engine's CPU build links to. On GPUs Triton compiles its launchers when an engine starts: that
# takes a C compiler and Python's headers. Debian's own python3 comes without venv and headers, the python images bring
# both.
RUN set -eu; \
    packages="ca-certificates git libnuma1 openssh-client"; \
    python3 -c "import ensurepip" 2>/dev/null || packages="$packages python3-venv"; \
    if [ "$EXTRA" = gpu ]; then \
        packages="$packages gcc libc6-dev"; \
        test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
            || packages="$packages python3-dev"; \
    fi; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt/* /var/log/dpkg.log

FROM system AS wheel
WORKDIR /src
COPY . .
RUN python3 -m venv /build && /build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM system
ARG EXTRA
# The Makefile's.
ARG UV_VERSION=0.13.9
# What Argus stands on, as the Makefile installs it. This layer is made anew only when these files change.
COPY pyproject.toml /tmp/build/
COPY requirements /tmp/build/requirements
RUN --mount=type=bind,from=wheels,target=/wheels set -eu; \
    case "$EXTRA" in \
        gpu) options="--overrides requirements/gpu-overrides.txt" ;; \
        cpu) options="--torch-backend=cpu" ;; \
        *) echo "EXTRA is gpu or cpu, not '$EXTRA'" >&2; exit 1 ;; \
    esac; \
    if ls /wheels/*.whl >/dev/null 2>&1; then \
        export UV_FIND_LINKS=/wheels; \
        if [ "$EXTRA" = cpu ]; then options=""; fi; \
    fi; \
    python3 -m venv /opt/argus; \
    python3 -m venv /tmp/uv; \
    /tmp/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==$UV_VERSION"; \
    cd /tmp/build; \
    /tmp/uv/bin/uv pip install --python /opt/argus/bin/python --no-cache --compile-bytecode \
        --constraint "requirements/$EXTRA.txt" $options --requirements pyproject.toml --extra "$EXTRA"; \
    cd /; \
    rm -rf /tmp/uv /tmp/build

# The state folder: keys, the embedded spec repository and ledger, models, logs.
RUN useradd --uid 1000 --user-group --create-home --shell /usr/sbin/nologin argus \
    && install -d -o argus -g argus -m 700 /var/lib/argus

# Copied rather than mounted: buildah's cache does not look into what a RUN mounts, and would keep the old code.
COPY --from=wheel /wheel /tmp/wheel
RUN /opt/argus/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-index --no-deps \
        /tmp/wheel/*.whl \
    && rm -r /tmp/wheel

# dev.yaml, but listening on all the container's addresses: which of them can be reached, and from where, is said by
# who publishes the ports. Mount a file of your own in its place.
COPY dev.yaml /etc/argus/argus.yaml
RUN sed -i 's/^  host: 127\.0\.0\.1$/  host: 0.0.0.0/' /etc/argus/argus.yaml \
    && test "$(grep -c '^  host: 0\.0\.0\.0$' /etc/argus/argus.yaml)" = 2

ENV PATH=/opt/argus/bin:$PATH \
    ARGUS_CONFIG=/etc/argus/argus.yaml \
    ARGUS_HOME=/var/lib/argus
USER argus
WORKDIR /var/lib/argus
VOLUME /var/lib/argus
EXPOSE 8080 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=4 CMD ["python", "-c", "import os; from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('ARGUS_API_PORT', '8080') + '/api/v2/healthz', timeout=4)"]
ENTRYPOINT ["argus"]
CMD ["up"]
