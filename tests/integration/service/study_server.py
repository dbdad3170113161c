"""A server without HTTP, to be killed: it runs the studies that are launched in a history.

python -m tests.integration.service.study_server URL FOLDER
"""

import sys
import threading
from pathlib import Path

from hpo.service.limits import Limits
from hpo.service.state import Service
from hpo.service.supervisor import Supervisor
from storage.schema import open_store


def make_service(url: str, folder: Path, **options) -> Service:
    """With the projects and the runs in that folder."""
    options = {"limits": Limits(trials_on_server=2), "mlflow_uri": None, **options}
    return Service(store=open_store(url), runs=folder / "runs", projects=folder / "projects", **options)


if __name__ == "__main__":
    Supervisor(make_service(sys.argv[1], Path(sys.argv[2]))).start()
    threading.Event().wait()
