"""The application under cProfile, for `benchmarks.profile`: the worker writes to `PROFILE_OUTPUT` when it ends."""

import atexit
import cProfile
import os
import time

from wsgi import app as app

_profile = cProfile.Profile(time.thread_time)  # waiting costs nothing
atexit.register(lambda: _profile.dump_stats(os.environ["PROFILE_OUTPUT"]))
_profile.enable()
