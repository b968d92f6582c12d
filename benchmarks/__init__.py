"""Speed and memory, beside what people use today: `lossbook bench`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports its every start
