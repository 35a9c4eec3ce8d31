#!/usr/bin/env bash
# Boots the service in a real systemd (systemd-nspawn) over the stand-in NVML library and checks what it promises:
# ready, reads what it needs as a dynamic user, watchdog, reload, stop, socket, restart after a replaced driver.
#
#   tests/end_to_end/boot_systemd.sh DIRECTORY [PYTHON]     as root, on Debian with debootstrap and systemd-container
#
# DIRECTORY keeps the system between runs; PYTHON has the project's test dependencies and pip. SUITE names another
# system than Debian 12, one that debootstrap knows.
set -euo pipefail
root=$(realpath -m "$1")/root
python=${2:-python3}
suite=${SUITE:-bookworm}
cd "$(dirname "$0")/../.."

mkdir -p "$(dirname "$root")"
if [ ! -x "$root/usr/bin/curl" ]; then
  packages=systemd,systemd-sysv,dbus,python3,python3-venv,curl,procps
  debootstrap --variant=minbase --include=$packages "$suite" "$root" > "$root.log" 2>&1
fi
mkdir -p "$root/wheels" "$root/opt/boot"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$root/wheels" .
version=$(chroot "$root" python3 -c 'import platform; print(platform.python_version())')
"$python" -m pip download --quiet --only-binary=:all: --python-version "$version" --dest "$root/wheels" \
  "$root"/wheels/vllm_headroom-*.whl
rm -rf "$root/opt/vllm-headroom" "$root/units" "$root/var/lib/private/vllm-headroom" "$root"/etc/systemd/system/vllm-headroom* \
  "$root/etc/default/vllm-headroom" "$root/srv/nvml" "$root/boot.log"
chroot "$root" python3 -m venv /opt/vllm-headroom
chroot "$root" /opt/vllm-headroom/bin/pip install --quiet --no-index --find-links /wheels vllm-headroom
chroot "$root" /opt/vllm-headroom/bin/vllm-headroom systemd export /units > /dev/null

"$python" - "$root" << 'PYTHON'
import json, shutil, sys
from pathlib import Path

sys.path.insert(0, ".")
from tests.advisor.examples import LLAMA_8B
from tests.exporter.daemon import vllm_page
from tests.nvml_standin.standin import GIB, Process, State, build

root = Path(sys.argv[1])
nvml, boot = root / "srv/nvml", root / "opt/boot"
nvml.mkdir(parents=True)
shutil.copy(build(root.parent / "nvml"), nvml / "libnvidia-ml.so.1")
card = State(nvml / "state.in").add_gpu()
card.set_memory(total=80 * GIB, used=60 * GIB, reserved=GIB // 2)
card.set_processes(Process(pid=4242424, memory=60 * GIB))
(boot / "config.json").write_text(json.dumps(LLAMA_8B))
pages = {
    "/metrics": vllm_page(tokens=300_000),
    "/version": json.dumps({"version": "0.32.0"}),
    "/v1/models": json.dumps({"data": [{"id": "m", "root": "org/name", "max_model_len": 8192}]}),
}
(boot / "vllm").write_text(f"""
import http.server
pages = {pages!r}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in pages else 404)
        self.end_headers()
        self.wfile.write(pages.get(self.path, "").encode())
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
""")
PYTHON

cat > "$root/opt/boot/check.sh" << 'CHECK'
#!/bin/bash
exec > /boot.log 2>&1
since() { awk "BEGIN { printf \"%5.1f s\", $EPOCHREALTIME - $1 }"; }
check() { local at=$EPOCHREALTIME; if eval "$2"; then echo "ok     $(since $at)  $1"; else echo "NOT OK $(since $at)  $1: $2"; fi; }
pid() { systemctl show -p MainPID --value vllm-headroom; }
metric() { curl -s -m 10 localhost:9738/metrics | grep -q "$1"; }
within() { for _ in $(seq $(($1 * 5))); do eval "$2" && return; sleep 0.2; done; return 1; }
exposed() { systemd-analyze security --no-pager vllm-headroom | awk '/Overall/ {print $(NF - 2)}'; }
at_most() { awk "BEGIN { exit !($1 + 0 > 0 && $1 <= $2) }"; }
is_new() { [ "$(pid)" != "$old" ] && [ "$(pid)" != 0 ] && systemctl is-active -q vllm-headroom; }

. /etc/os-release; echo "$PRETTY_NAME, $(systemctl --version | head -1), $(python3 --version)"
id alice > /dev/null 2>&1 || useradd -m alice
model=/home/alice/hf/hub/models--org--name/snapshots/abc
mkdir -p $model && cp /opt/boot/config.json $model && chown -R alice /home/alice && chmod -R go-rwx /home/alice
systemd-run --quiet --unit=engine --uid=alice --setenv=HF_HOME=/home/alice/hf python3 /opt/boot/vllm serve org/name
sleep 1
sed "s/4242424/$(systemctl show -p MainPID --value engine)/" /srv/nvml/state.in > /srv/nvml/state
chmod -R a+rX /srv/nvml /opt/boot
cp -r /units/vllm-headroom.service /units/vllm-headroom.service.d /units/vllm-headroom.socket /etc/systemd/system/
install -D -m 600 <(echo s3cret) /etc/vllm-headroom/keys/chat
cat > /etc/systemd/system/vllm-headroom.service.d/99-test.conf << UNIT
[Service]
WatchdogSec=5
Environment=LD_LIBRARY_PATH=/srv/nvml NVML_STANDIN_STATE=/srv/nvml/state
LoadCredential=chat:/etc/vllm-headroom/keys/chat
UNIT
systemctl daemon-reload

check "systemd has nothing to say of the units" "[ -z \"$(systemd-analyze verify vllm-headroom.{service,socket} 2>&1)\" ]"
check "it is started and ready" "systemctl start vllm-headroom && metric headroom_collector_success"
check "no variable of its command line is unset" "! journalctl -u vllm-headroom -b | grep -q 'unset environment variable'"
check "it is exposed to $(exposed)" "at_most '$(exposed)' 2.2"
own=/proc/$(pid)
check "as a user of its own" "[ $(stat -c %u $own) -ne 0 ] && grep -q 'CapEff:.*0000000000080004' $own/status"
check "it gains no rights and is filtered" "grep -q 'NoNewPrivs:.1' $own/status && grep -q 'Seccomp:.2' $own/status"
check "another user's private model is read" "within 15 'metric theory=.ok'"
check "its memory is mapped" "metric 'component=.foreign.* 0.0'"
check "it keeps its state" "within 90 'test -s /var/lib/private/vllm-headroom/starts.json'"
check "it has its credential" "nsenter -t $(pid) -m cat /run/credentials/vllm-headroom.service/chat | grep -q s3cret"
check "it writes nowhere else" "! nsenter -t $(pid) -m touch /usr/here 2> /dev/null"
check "it holds $(awk '/VmRSS/ {print $2}' $own/status) KiB" "[ $(awk '/VmRSS/ {print $2}' $own/status) -lt 65536 ]"
old=$(pid); kill -STOP "$old"
check "the watchdog restarts a stopped process" "within 40 is_new"
check "for that reason" "journalctl -u vllm-headroom -b | grep -q 'Watchdog timeout'"
old=$(pid); systemctl reload vllm-headroom; sleep 1
check "a reload keeps it running" "[ $(pid) = $old ] && systemctl is-active -q vllm-headroom"
(cat /srv/nvml/state; echo "fail * LIB_RM_VERSION_MISMATCH") > /srv/nvml/new
cp /srv/nvml/state /srv/nvml/good; mv /srv/nvml/new /srv/nvml/state
check "a replaced driver restarts it" "within 60 is_new && journalctl -u vllm-headroom -b | grep -q status=75"
mv /srv/nvml/good /srv/nvml/state
check "it ends when asked to" "systemctl stop vllm-headroom && [ $(systemctl show -p Result --value vllm-headroom) = success ]"
rm /etc/systemd/system/vllm-headroom.service.d/10-*.conf; systemctl daemon-reload; systemctl start vllm-headroom
check "without the drop-in it is exposed to $(exposed)" "at_most '$(exposed)' 1.8"
check "and has no capability" "grep -q 'CapEff:.*0000000000000000' /proc/$(pid)/status"
check "finds the server all the same" "within 15 'metric headroom_engine_up.*1.0'"
check "and says what it could not read" "within 15 'metric theory=.*has.not.been.read'"
systemctl stop vllm-headroom
echo 'OPTIONS="--web.systemd-socket"' > /etc/default/vllm-headroom
systemctl start vllm-headroom.socket
check "the first scrape starts it by its socket" "within 20 'metric headroom_build_info'"
(sleep 0.1; systemctl restart vllm-headroom) &
check "a scrape during a restart is answered" "sleep 0.3; metric headroom_build_info"
wait
echo end
systemctl poweroff
CHECK
chmod +x "$root/opt/boot/check.sh"
printf '[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/opt/boot/check.sh\n' > "$root/etc/systemd/system/check.service"
printf '[Timer]\nOnBootSec=2\n' > "$root/etc/systemd/system/check.timer"
mkdir -p "$root/etc/systemd/system/timers.target.wants"
ln -sf ../check.timer "$root/etc/systemd/system/timers.target.wants/check.timer"

# Control groups as they are here, version 1; systemd 256 and 257 have them only where they are insisted on.
timeout 400 systemd-nspawn -D "$root" --register=no --keep-unit --private-network --boot --console=pipe \
  systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 > "$root.console.log" 2>&1 < /dev/null || true
cat "$root/boot.log"
grep -qx end "$root/boot.log" && ! grep -q '^NOT OK' "$root/boot.log"
