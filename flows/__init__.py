"""What schedules and watches the graph of dvc.yaml; nothing here restates it."""

import os

QUIET = {
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
"""No telemetry, and patience with Prefect's own server on a busy machine; each is read when its library is imported."""

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
