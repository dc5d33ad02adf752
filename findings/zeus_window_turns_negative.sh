#!/usr/bin/env bash
# zeus measures the energy of a processor between begin_window and end_window. Linux's RAPL counters begin again from 0 once they have
# reached max_energy_range_uj, which takes minutes to hours under load; a process of zeus's looks for that, once a second. A window that
# ends before it has looked is negative by the whole range: minus a quarter of a megajoule here.
#
# Versions: zeus 0.16.0. Behaviour seen: a folder like /sys/class/powercap/intel-rapl, whose counter goes from 1 J below its range to
# 1 mJ, so that the window took a joule.
# Output seen:
#   begins again within it: -262142.0 J
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check zeus==0.16.0
cd "$place"
mkdir -p rapl/intel-rapl:0
echo package-0 > rapl/intel-rapl:0/name
echo 262143000000 > rapl/intel-rapl:0/max_energy_range_uj
echo 262142000000 > rapl/intel-rapl:0/energy_uj
cat > windows.py <<'P'
import pathlib, time
import zeus.device.cpu.rapl as rapl
rapl.RAPL_DIR = "rapl"
from zeus.monitor import ZeusMonitor

def joules(monitor, name):
    return monitor.end_window(name).cpu_energy[0]

if __name__ == "__main__":
    monitor = ZeusMonitor(gpu_indices=[])
    monitor.begin_window("before")
    time.sleep(3)  # zeus's own process has begun to look
    joules(monitor, "before")
    monitor.begin_window("in which it begins again")
    pathlib.Path("rapl/intel-rapl:0/energy_uj").write_text("1000")
    print(f"begins again within it: {joules(monitor, 'in which it begins again'):.1f} J", flush=True)
P
"$place/venv/bin/python" windows.py 2>log | tee output
grep -q "^begins again within it: -262142.0 J$" output
