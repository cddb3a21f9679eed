"""The application, for gunicorn (`gunicorn wsgi:app`) and Flask (`flask --app wsgi run`)."""

from proxy.app import create_app

app = create_app()
