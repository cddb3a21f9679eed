FROM python:3.11-slim AS build
WORKDIR /app
COPY requirements.txt ./
RUN python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check --requirement requirements.txt
COPY proxy proxy
COPY schemas schemas
COPY wsgi.py gunicorn.conf.py ./
RUN /venv/bin/python -m compileall -q .

FROM python:3.11-slim
RUN pip uninstall --yes --quiet --root-user-action=ignore pip \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin stations \
 && install --directory --mode=700 --owner=10001 --group=10001 /app/data
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# Inside a container 127.0.0.1 reaches nobody. With the embedded broker this asks for a CONNECTION_TOKEN of one's own.
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HTTP_HOST=0.0.0.0
USER 10001
EXPOSE 4444
# Alive, not ready: readiness would restart every replica when the broker is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or os.environ.get('HTTP_PORT') or 4444), timeout=3); c.request('GET', '/monitoring/status'); sys.exit(c.getresponse().status != 200)"]
CMD ["gunicorn", "wsgi:app"]
