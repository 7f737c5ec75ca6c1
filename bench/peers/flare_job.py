"""Submit the job to a FLARE server: KIT ADMIN MEGABYTES AGENTS ROUNDS TIMES."""

import sys
import tempfile
from pathlib import Path

from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from flare_fedavg import TimedFedAvg  # noqa: E402 - beside this program

kit, admin, megabytes, agents, rounds, times = sys.argv[1:]
job = FedJob(name="bench", min_clients=int(agents))
job.to_server(TimedFedAvg(float(megabytes), times, int(agents), int(rounds)))
job.to_clients(ScriptRunner(script=str(HERE / "flare_site.py"), framework="numpy"))
with tempfile.TemporaryDirectory() as folder:
    job.export_job(folder)
    session = new_secure_session(admin, kit)
    session.submit_job(f"{folder}/bench")
    session.close()
