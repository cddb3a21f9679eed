"""The application, for gunicorn (`gunicorn wsgi:app`) and Flask (`flask --app wsgi run`)."""

import sys

from proxy.app import create_app
from proxy.errors import BadSetting

try:
    app = create_app()
except BadSetting as error:
    sys.stderr.write(f"stations: {error}\n")
    sys.exit(3)  # gunicorn's code for a worker that cannot boot
